#include "qlora/formats/safetensors.h"

#include <sys/stat.h>

#include <cstring>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "qlora/core/error.h"

#include "support/temporary_folder.h"

namespace qlora {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

class SafetensorsTest : public testing::Test {
 protected:
  fs::path write(const std::string& bytes) const { return temporary_.write("x.safetensors", bytes); }

  // A file of that header and so many bytes of data.
  fs::path file(const std::string& header, std::size_t data_bytes) const {
    return write(length(header.size()) + header + std::string(data_bytes, '\1'));
  }

  static std::string length(std::uint64_t value) {
    std::string bytes(8, '\0');
    std::memcpy(bytes.data(), &value, 8);
    return bytes;
  }

  static void expect_refused(const fs::path& path, const std::string& because) {
    try {
      const SafetensorsFile opened(path);
      ADD_FAILURE() << "accepted; expected: " << because;
    } catch (const DataError& error) {
      EXPECT_THAT(error.what(), HasSubstr(because));
      EXPECT_THAT(error.what(), HasSubstr(path.string()));
    }
  }

  const TemporaryFolder temporary_;
  const fs::path folder_ = temporary_.path();
};

constexpr const char* kTwo = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                             R"("b":{"dtype":"BF16","shape":[2,1],"data_offsets":[8,12]}})";

TEST_F(SafetensorsTest, AcceptsWhatTheFormatAllows) {
  struct Case {
    std::string header;
    std::size_t data;
    std::size_t tensors;
  };
  const std::vector<Case> cases = {
      {"{}", 0, 0},
      {"{}      ", 0, 0},
      {R"({"__metadata__":{}})", 0, 0},
      {R"({"__metadata__":{"format":"pt","x":""}})", 0, 0},
      {kTwo, 12, 2},
      {R"({"b":{"data_offsets":[4,8],"shape":[1],"dtype":"F32"},"a":{"dtype":"I32","shape":[],"data_offsets":[0,4]}})",
       8, 2},
      {R"({"e":{"dtype":"F32","shape":[0,5],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}})",
       3, 2},
      {R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},"e":{"dtype":"F32","shape":[0],"data_offsets":[3,3]}})",
       3, 2},
      {R"({"\u00e9\ud83d\ude00":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]}})", 1, 1},
      {R"({"":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}})", 1, 1},
  };
  for (const Case& accepted : cases) {
    const SafetensorsFile opened(file(accepted.header, accepted.data));
    EXPECT_EQ(opened.entries().size(), accepted.tensors) << accepted.header;
  }
  for (const char* type :
       {"F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2"}) {
    const std::size_t size = element_size(*element_type(type));
    const std::string header =
        std::string(R"({"a":{"dtype":")") + type + R"(","shape":[1],"data_offsets":[0,)" + std::to_string(size) + "]}}";
    EXPECT_EQ(SafetensorsFile(file(header, size)).tensor("a").count(), 1) << type;
  }
}

TEST_F(SafetensorsTest, FindsTensorsByNameAndByOffset) {
  const SafetensorsFile opened(file(kTwo, 12));
  EXPECT_EQ(opened.tensor("b").shape, (Shape{2, 1}));
  EXPECT_EQ(opened.tensor("b").type, ElementType::kBF16);
  EXPECT_EQ(opened.entries()[1].spec.name, "b");
  EXPECT_FALSE(opened.contains("c"));
  EXPECT_THROW(opened.tensor("c"), DataError);
}

TEST_F(SafetensorsTest, RefusesBrokenFiles) {
  expect_refused(folder_ / "none.safetensors", "");
  expect_refused(folder_, "");
  expect_refused(write(""), "too few");
  expect_refused(write("1234567"), "too few");
  expect_refused(write(length(3) + "{}"), "cut short");
  expect_refused(write(length(100'000'001) + "{}"), "at most 100000000");
  expect_refused(write(length(~0ULL) + "{}"), "at most");
  expect_refused(write(length(0)), "does not begin with '{'");
  const fs::path fifo = folder_ / "fifo";
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  expect_refused(fifo, "regular file");
}

TEST_F(SafetensorsTest, RefusesBrokenHeaders) {
  struct Case {
    std::string header;
    std::string because;
  };
  const std::string tensor = R"({"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  const std::vector<Case> cases = {
      {"[]", "begin with '{'"},
      {" {}", "begin with '{'"},
      {"{", "no valid JSON"},
      {"{}x", "no valid JSON"},
      {std::string("{}\0", 3), "NUL"},
      {"{\"\xff\":1}", "no valid JSON"},
      {R"({"a":)" + tensor + R"(,"a":)" + tensor + "}", "occurs twice"},
      {R"({"__metadata__":{},"__metadata__":{}})", "occurs twice"},
      {R"({"__metadata__":{"a":"1","a":"2"}})", "occurs twice"},
      {R"({"__metadata__":{"a":1}})", "must be a string"},
      {R"({"__metadata__":{"a":{}}})", "must be a string"},
      {R"({"__metadata__":"x"})", "must be an object"},
      {R"({"a":1})", "must be an object"},
      {R"({"a":[]})", "list"},
      {R"({"a":{}})", "lacks"},
      {R"({"a":{"dtype":"U8","shape":[1]}})", "lacks"},
      {R"({"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "occurs twice"},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1}})", "unknown field"},
      {R"({"a":{"dtype":"F4","shape":[1],"data_offsets":[0,1]}})", "not supported"},
      {R"({"a":{"dtype":8,"shape":[1],"data_offsets":[0,1]}})", "cannot be"},
      {R"({"a":{"dtype":"U8","shape":"1","data_offsets":[0,1]}})", "cannot be"},
      {R"({"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}})", "-1"},
      {R"({"a":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}})", "1.0"},
      {R"({"a":{"dtype":"U8","shape":[[1]],"data_offsets":[0,1]}})", "list"},
      {R"({"a":{"dtype":"U8","shape":[true],"data_offsets":[0,1]}})", "boolean"},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0]}})", "fewer than two"},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1,1]}})", "more than two"},
      {R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[1,0]}})", "backwards"},
      {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,1]}})", "takes 2 bytes"},
      {R"({"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,1]}})", "too large"},
      {R"({"a":{"dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,1]}})", "too large"},
      {R"({"a":{"dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,1]}})", "too large"},
      {R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})", "cut short"},
      {R"({"a":)" + tensor + R"(,"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", "overlap"},
      {R"({"b":{"dtype":"U8","shape":[0],"data_offsets":[1,1]}})", "holes"},
      {"{}", "but the file holds 1"},
      {R"({"a":)" + std::string(100000, '[') + "}", "list"},
  };
  for (const Case& refused : cases) expect_refused(file(refused.header, 1), refused.because);
}

TEST_F(SafetensorsTest, NamesInErrorsCannotDriveTheTerminal) {
  const fs::path path = file(R"({"\u001b[31m":{"dtype":"F4","shape":[1],"data_offsets":[0,1]}})", 1);
  expect_refused(path, "\\x1b");
}

TEST_F(SafetensorsTest, WritesWhatItReads) {
  const fs::path path = folder_ / "out.safetensors";
  const std::vector<float> wide = {1.0F, 2.0F};
  const std::vector<std::uint8_t> narrow = {7, 8, 9};
  SafetensorsWriter writer(
      path, {{"n", ElementType::kU8, {3}}, {"w", ElementType::kF32, {1, 2}}, {"e", ElementType::kF32, {0}}});
  writer.append("n", bytes_of(narrow).first(1));
  writer.append("w", bytes_of(wide));
  writer.append("n", bytes_of(narrow).subspan(1));
  EXPECT_FALSE(fs::exists(path));
  writer.commit();
  EXPECT_EQ(writer.file_bytes(), fs::file_size(path));
  const SafetensorsFile opened(path);
  EXPECT_EQ(opened.metadata().at("format"), "pt");
  EXPECT_EQ(to_float32(opened.tensor("w")), wide);
  EXPECT_EQ(opened.tensor("n").bytes[2], std::byte{9});
  EXPECT_EQ(opened.entries().back().spec.name, "n");  // the narrow type last: all are aligned
}

TEST_F(SafetensorsTest, AnUnfinishedFileLeavesTheOldOne) {
  const fs::path path = write("old");
  const std::vector<float> values = {1.0F, 2.0F};
  {
    SafetensorsWriter writer(path, {{"w", ElementType::kF32, {2}}});
    writer.append("w", bytes_of(values).first(4));
    EXPECT_THROW(writer.commit(), RuntimeFailure);                       // lacks 4 bytes
    EXPECT_THROW(writer.append("w", bytes_of(values)), RuntimeFailure);  // 4 too many
    EXPECT_THROW(writer.append("x", bytes_of(values)), RuntimeFailure);
  }
  EXPECT_EQ(fs::file_size(path), 3U);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), {}), 1);
}

TEST_F(SafetensorsTest, AFailedWriteNamesThePath) {
  const fs::path path = write("old") / "below.safetensors";
  try {
    write_safetensors(path, {});
    FAIL();
  } catch (const RuntimeFailure& error) {
    EXPECT_THAT(error.what(), HasSubstr(path.string()));
  }
}

TEST_F(SafetensorsTest, ImpossibleDeclarationsAreRefused) {
  const fs::path path = folder_ / "out.safetensors";
  EXPECT_THROW(SafetensorsWriter(path, {{"w", ElementType::kF32, {1}}, {"w", ElementType::kF32, {1}}}), DataError);
  EXPECT_THROW(SafetensorsWriter(path, {{"__metadata__", ElementType::kF32, {1}}}), DataError);
  EXPECT_THROW(SafetensorsWriter(path, {{"w", ElementType::kF32, {-1}}}), DataError);
  EXPECT_TRUE(fs::is_empty(folder_));
}

}  // namespace
}  // namespace qlora
