#include "qlora/hub/layout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "qlora/hub/blob.h"
#include "qlora/hub/http.h"
#include "qlora/hub/repository.h"
#include "qlora/hub/settings.h"

#include "support/temporary_folder.h"

namespace qlora {
namespace {

namespace fs = std::filesystem;

const HubRepo kModelRepo{HubKind::kModel, "Qwen/Qwen2.5-0.5B"};
const HubRepo kDataRepo{HubKind::kDataset, "tatsu-lab/alpaca"};

TEST(HubLayout, Urls) {
  EXPECT_EQ(listing_url("https://h", kModelRepo, "main"), "https://h/api/models/Qwen/Qwen2.5-0.5B/revision/main");
  EXPECT_EQ(listing_url("https://h", kDataRepo, "refs/pr/1"),
            "https://h/api/datasets/tatsu-lab/alpaca/revision/refs%2Fpr%2F1");
  EXPECT_EQ(file_url("https://h", kModelRepo, "v1.0", "a b/c#d.json"),
            "https://h/Qwen/Qwen2.5-0.5B/resolve/v1.0/a%20b/c%23d.json");
  EXPECT_EQ(file_url("https://h", kDataRepo, "main", "d/\xc3\xa9?.jsonl"),
            "https://h/datasets/tatsu-lab/alpaca/resolve/main/d/%C3%A9%3F.jsonl");
  EXPECT_EQ(url_for_messages("https://cdn/x/y?Signature=secret#z"), "https://cdn/x/y");
  EXPECT_EQ(url_for_messages("https://me:secret@cdn/x@y"), "https://cdn/x@y");
  EXPECT_EQ(resolve_url("https://h/a/b/c", "/d/e?f=1"), "https://h/d/e?f=1");
  EXPECT_EQ(resolve_url("https://h/a/b", "https://cdn/x"), "https://cdn/x");
}

TEST(HubLayout, TokensGoToOneSchemeHostAndPort) {
  EXPECT_EQ(authority_of("https://H.co/a"), authority_of("https://h.co:443/b?c"));
  for (const char* other : {"http://h.co/a", "https://h.co:444/a", "https://h.co.evil/a", "https://h.co@evil/a", "h"}) {
    EXPECT_NE(authority_of("https://h.co/a"), authority_of(other)) << other;
  }
}

TEST(HubLayout, CacheNames) {
  EXPECT_EQ(cache_folder_name(kModelRepo), "models--Qwen--Qwen2.5-0.5B");
  EXPECT_EQ(cache_folder_name(kDataRepo), "datasets--tatsu-lab--alpaca");
  EXPECT_EQ(link_target("config.json", "abc"), "../../blobs/abc");
  EXPECT_EQ(link_target("a/b/c.json", "abc"), "../../../../blobs/abc");
}

TEST(HubLayout, Etags) {
  EXPECT_EQ(etag_of_header("\"abc\""), "abc");
  EXPECT_EQ(etag_of_header("W/\"abc\""), "abc");
  EXPECT_EQ(etag_of_header("Wabc"), "Wabc");
  EXPECT_TRUE(is_sha256(std::string(64, 'a')));
  EXPECT_FALSE(is_sha256(std::string(63, 'a') + "A"));
  EXPECT_FALSE(is_sha256(std::string(40, 'a')));
  EXPECT_TRUE(is_commit(std::string(40, '0')));
  EXPECT_FALSE(is_commit("main"));
  for (const char* good : {"abc", "5f-3e_1.x"}) EXPECT_TRUE(is_blob_name(good)) << good;
  for (const char* bad : {"", ".", "..", "../x", "a/b", "a\\b", "a b", "\xc3\xa9"})
    EXPECT_FALSE(is_blob_name(bad)) << bad;
  EXPECT_FALSE(is_blob_name(std::string(129, 'a')));
}

TEST(HubLayout, NamesFromTheNetworkStayInTheirFolder) {
  for (const char* good : {"config.json", "data/train.json", ".gitattributes", "a/..b/c"}) {
    EXPECT_TRUE(is_inner_path(good)) << good;
  }
  for (const char* bad : {"", "/etc/passwd", "..", "a/../b", "a//b", "a/", "./a", "a\\b", "a\nb"}) {
    EXPECT_FALSE(is_inner_path(bad)) << bad;
  }
  EXPECT_FALSE(is_inner_path(std::string_view("a\0b", 3)));
}

TEST(HubLayout, NamesAreRepositoriesWhereNothingLocalIsMeant) {
  const TemporaryFolder folder;
  const fs::path before = fs::current_path();
  fs::current_path(folder.path());
  folder.write("owner/file", "");
  EXPECT_TRUE(names_hub_repository("Qwen/Qwen2.5-0.5B"));
  for (const char* local : {"owner/file", "owner/other", "name", "./a/b", "/a/b", "a/b/c", "a/"}) {
    EXPECT_FALSE(names_hub_repository(local)) << local;
  }
  fs::current_path(before);
}

HubSettings settings_of(const std::map<std::string, std::string>& variables) {
  return hub_settings([&](const char* name) -> const char* {
    const auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second.c_str();
  });
}

TEST(HubSettings, FollowTheVariables) {
  const HubSettings plain = settings_of({{"HOME", "/h"}});
  EXPECT_EQ(plain.endpoint, "https://huggingface.co");
  EXPECT_EQ(plain.cache, "/h/.cache/huggingface/hub");
  EXPECT_EQ(plain.token, "");
  EXPECT_FALSE(plain.offline);
  EXPECT_EQ(settings_of({{"HOME", "/h"}, {"XDG_CACHE_HOME", "/x"}}).cache, "/x/huggingface/hub");
  EXPECT_EQ(settings_of({{"HOME", "/h"}, {"HF_HOME", "~/hf"}}).cache, "/h/hf/hub");
  EXPECT_EQ(settings_of({{"HF_HOME", "/hf"}, {"HF_HUB_CACHE", "/c"}}).cache, "/c");
  EXPECT_EQ(settings_of({{"HF_HOME", "/hf"}, {"HF_HUB_CACHE", ""}}).cache, "/hf/hub");
  EXPECT_EQ(settings_of({{"HF_ENDPOINT", "http://m:1/"}}).endpoint, "http://m:1");
  for (const char* yes : {"1", "true", "ON"}) EXPECT_TRUE(settings_of({{"HF_HUB_OFFLINE", yes}}).offline);
  EXPECT_FALSE(settings_of({{"HF_HUB_OFFLINE", "0"}}).offline);
  EXPECT_EQ(settings_of({{"HF_HUB_DOWNLOAD_TIMEOUT", "3"}}).download_timeout, 3);
}

TEST(HubSettings, TheVariablesTokenBeatsTheFiles) {
  const TemporaryFolder folder;
  folder.write("token", "hf_file\n");
  const std::string home = folder.path().string();
  EXPECT_EQ(settings_of({{"HF_HOME", home}}).token, "hf_file");
  EXPECT_EQ(settings_of({{"HF_HOME", home}, {"HF_TOKEN", " hf_variable "}}).token, "hf_variable");
  EXPECT_EQ(settings_of({{"HF_TOKEN_PATH", home + "/token"}}).token, "hf_file");
}

TEST(BlobWriter, GoesOnWithWhatIsThere) {
  const TemporaryFolder folder;
  const fs::path path = folder.path() / "blobs/x";
  { BlobWriter(path).append("hello "); }
  EXPECT_FALSE(fs::exists(path));
  BlobWriter writer(path);
  EXPECT_EQ(writer.size(), 6U);
  writer.append("world");
  EXPECT_TRUE(writer.matches(11, "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9"));
  writer.commit();
  EXPECT_EQ(read_bytes(path), "hello world");
  EXPECT_FALSE(fs::exists(path.string() + ".incomplete"));
}

TEST(BlobWriter, TellsOtherBytes) {
  const TemporaryFolder folder;
  const std::string hash = "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9";
  BlobWriter writer(folder.path() / "x");
  writer.append("hello w0rld");
  EXPECT_FALSE(writer.matches(12, "etag"));
  EXPECT_FALSE(writer.matches(11, hash));
  writer.restart();
  writer.append("hello world");
  EXPECT_TRUE(writer.matches(std::nullopt, hash));
}

}  // namespace
}  // namespace qlora
