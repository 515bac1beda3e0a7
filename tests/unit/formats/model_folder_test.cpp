#include "qlora/formats/model_folder.h"

#include <sys/stat.h>

#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "qlora/core/error.h"

#include "support/temporary_folder.h"

namespace qlora {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;

class ModelFolderTest : public testing::Test {
 protected:
  ModelFolderTest() {
    fs::create_directories(model());
    text("config.json", R"({"model_type": "qwen2"})");
  }

  fs::path model() const { return root_ / "model"; }

  void text(const std::string& file, const std::string& content) const { std::ofstream(model() / file) << content; }

  // A file of tensors of two floats each.
  void weights(const std::string& file, const std::vector<std::string>& names) const {
    const std::vector<float> values = {1.0F, 2.0F};
    std::map<std::string, HostTensor> tensors;
    for (const std::string& name : names) tensors[name] = {ElementType::kF32, {2}, bytes_of(values)};
    write_safetensors(model() / file, tensors);
  }

  void index(const std::string& weight_map) const {
    text("model.safetensors.index.json", R"({"metadata": {"total_size": 8}, "weight_map": )" + weight_map + "}");
  }

  template <class E = DataError>
  void expect_refused(const std::string& because) const {
    try {
      const ModelFolder folder(model());
      ADD_FAILURE() << "accepted; expected: " << because;
    } catch (const E& error) {
      EXPECT_THAT(error.what(), HasSubstr(because));
    }
  }

  const TemporaryFolder temporary_;
  const fs::path root_ = temporary_.path();
};

TEST_F(ModelFolderTest, ReadsOneFile) {
  weights("model.safetensors", {"b", "a"});
  const ModelFolder folder(model());
  EXPECT_THAT(folder.names(), ElementsAre("a", "b"));
  EXPECT_EQ(folder.total_bytes(), 16U);
  EXPECT_EQ(folder.config().at("model_type"), "qwen2");
  EXPECT_EQ(to_float32(folder.tensor("b")), (std::vector<float>{1.0F, 2.0F}));
  EXPECT_THROW(folder.tensor("c"), DataError);
}

TEST_F(ModelFolderTest, ReadsShards) {
  weights("one.safetensors", {"a", "c"});
  weights("two.safetensors", {"b"});
  index(R"({"a": "one.safetensors", "b": "two.safetensors", "c": "one.safetensors"})");
  const ModelFolder folder(model());
  EXPECT_THAT(folder.names(), ElementsAre("a", "c", "b"));
  EXPECT_EQ(folder.file_of("b").filename(), "two.safetensors");
}

TEST_F(ModelFolderTest, RefusesWhatIsMissing) {
  expect_refused("neither model.safetensors nor");
  fs::remove(model() / "config.json");
  expect_refused("config.json");
  fs::remove_all(model());
  expect_refused("no such model folder");
}

TEST_F(ModelFolderTest, RefusesPicklesUnopened) {
  ASSERT_EQ(::mkfifo((model() / "pytorch_model.bin").c_str(), 0600), 0);  // opening it would hang
  expect_refused("pickle");
  index(R"({"a": "pytorch_model.bin"})");
  expect_refused("pickle");
}

TEST_F(ModelFolderTest, RefusesIndexesThatDoNotFit) {
  weights("one.safetensors", {"a"});
  index(R"({"a": "one.safetensors", "b": "one.safetensors"})");
  expect_refused("holds tensor 'b', but it does not");
  weights("two.safetensors", {"a", "b"});
  index(R"({"a": "one.safetensors", "b": "two.safetensors"})");
  expect_refused("which the index places in 'one.safetensors'");
  index(R"({"b": "two.safetensors"})");
  expect_refused("does not list");
  index("{}");
  expect_refused("empty");
  index("[]");
  expect_refused("weight_map");
  index(R"({"a": 1})");
  expect_refused("no string");
  index(R"({"a": "three.safetensors"})");
  expect_refused("three.safetensors");
  text("model.safetensors.index.json", "{");
  expect_refused("index.json");
}

TEST_F(ModelFolderTest, RefusesFilesOutsideOfTheFolder) {
  weights("one.safetensors", {"a"});
  fs::rename(model() / "one.safetensors", root_ / "out.safetensors");
  index(R"({"a": "../out.safetensors"})");
  expect_refused("leads out of the folder");
  index(R"({"a": ")" + (root_ / "out.safetensors").string() + R"("})");
  expect_refused("is absolute");
  index(R"({"a": "one\u0000.safetensors"})");
  expect_refused("NUL");
  index(R"({"a": ""})");
  expect_refused("is empty");
  fs::create_symlink(root_ / "out.safetensors", model() / "one.safetensors");
  index(R"({"a": "one.safetensors"})");
  expect_refused("link out of the folder");
  fs::remove(model() / "model.safetensors.index.json");
  fs::rename(model() / "one.safetensors", model() / "model.safetensors");
  expect_refused("link out of the folder");
}

TEST_F(ModelFolderTest, RefusesFifos) {
  ASSERT_EQ(::mkfifo((model() / "model.safetensors").c_str(), 0600), 0);
  expect_refused("regular file");
}

TEST_F(ModelFolderTest, FollowsTheLinksOfTheHubsCache) {
  const fs::path snapshot = root_ / "models--a--b" / "snapshots" / "0123";
  fs::create_directories(snapshot);
  fs::create_directories(root_ / "models--a--b" / "blobs");
  weights("model.safetensors", {"a"});
  for (const char* file : {"model.safetensors", "config.json"}) {
    fs::rename(model() / file, root_ / "models--a--b" / "blobs" / file);
    fs::create_symlink(fs::path("../../blobs") / file, snapshot / file);
  }
  EXPECT_TRUE(ModelFolder(snapshot).contains("a"));
  // Large files may lie in blobs that all entries of the cache share, but nowhere else.
  const fs::path blob = root_ / "models--a--b/blobs/model.safetensors";
  fs::create_directories(root_ / "blobs/ab");
  fs::rename(blob, root_ / "blobs/ab/abcd");
  fs::create_symlink("../../blobs/ab/abcd", blob);
  EXPECT_TRUE(ModelFolder(snapshot).contains("a"));
  fs::rename(root_ / "blobs", root_ / "elsewhere");
  fs::remove(blob);
  fs::create_symlink("../../elsewhere/ab/abcd", blob);
  EXPECT_THROW(ModelFolder{snapshot}, DataError);
}

TEST_F(ModelFolderTest, WritesShardsThatItReads) {
  std::vector<TensorSpec> specs;
  for (const char* name : {"c", "a", "b", "d"}) specs.push_back({name, ElementType::kF32, {2}});
  weights("model.safetensors", {"old"});
  const std::vector<float> values = {1.0F, 2.0F};
  {
    ModelFolderWriter writer(model(), specs, 16);
    EXPECT_EQ(writer.shard_count(), 2U);
    for (const TensorSpec& spec : specs) writer.append(spec.name, bytes_of(values));
    EXPECT_THROW(writer.append("x", bytes_of(values)), RuntimeFailure);
    EXPECT_TRUE(ModelFolder(model()).contains("old"));
    writer.commit();
  }
  const ModelFolder folder(model());
  EXPECT_THAT(folder.names(), ElementsAre("c", "a", "b", "d"));
  EXPECT_EQ(folder.file_of("d").filename(), "model-00002-of-00002.safetensors");
  const Json index = read_json(model() / "model.safetensors.index.json");
  EXPECT_EQ(index.at("metadata").at("total_size"), 32);
  EXPECT_FALSE(fs::exists(model() / "model.safetensors"));
}

TEST_F(ModelFolderTest, IdentityDependsOnValuesAndNotOnFiles) {
  weights("model.safetensors", {"a", "b"});
  const std::string identity = ModelFolder(model()).weights_identity();
  fs::remove(model() / "model.safetensors");
  weights("one.safetensors", {"a"});
  weights("two.safetensors", {"b"});
  index(R"({"a": "one.safetensors", "b": "two.safetensors"})");
  EXPECT_EQ(ModelFolder(model()).weights_identity(), identity);
  const std::vector<float> values = {1.0F, 3.0F};
  write_safetensors(model() / "two.safetensors", {{"b", {ElementType::kF32, {2}, bytes_of(values)}}});
  EXPECT_NE(ModelFolder(model()).weights_identity(), identity);
}

}  // namespace
}  // namespace qlora
