// A repository of the Hugging Face Hub at one revision, in the cache that is shared with huggingface_hub: what is there
// is used, what is missing is downloaded.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "qlora/core/error.h"
#include "qlora/hub/http.h"
#include "qlora/hub/layout.h"
#include "qlora/hub/settings.h"

namespace qlora {

// Whether a user's text names a repository: "owner/name", and neither that nor a folder `owner` is here.
bool names_hub_repository(const std::string& text);

class HubRepository {
 public:
  // Asks the Hub which commit `revision` (a branch, a tag, a commit) is, and for the names of its files. Offline, or
  // with a warning where the Hub cannot be reached or refuses, the commit and the files that the cache holds are taken.
  // Throws NetworkError where the Hub is not reached, DataError for a repository or revision that is not there or not
  // open to this user; each where the cache does not help.
  HubRepository(HubRepo repo, std::string revision, HubSettings settings = hub_settings());

  // As the Hub lists them, or those in the cache.
  const std::vector<std::string>& files() const { return files_; }
  bool contains(const std::string& file) const;
  // Whether the Hub has listed them: files that are missing then can be fetched.
  bool is_listed() const { return !problem_; }

  // Sees to it that these are in the cache, and gives the folder of the commit, in which they have their names. A
  // download that an earlier run or a lost connection left is gone on with; every size, and the SHA-256 of large files,
  // are checked. Throws as the constructor, RuntimeFailure for a full disk, Error where a signal comes: then what has
  // come stays for the next time.
  std::filesystem::path fetch(const std::vector<std::string>& files);

 private:
  struct RemoteFile {
    std::string name, url, etag;
    std::optional<std::uint64_t> size;
    std::filesystem::path blob;
  };
  class Download;

  void list();
  bool list_cached();
  std::string cached_commit() const;
  std::filesystem::path snapshot() const { return storage_ / "snapshots" / commit_; }
  RemoteFile look_up(const std::string& file);
  HttpResponse ask(bool head, const std::string& url, const std::string& file);
  void check_space(const std::vector<RemoteFile>& files) const;
  void link(const RemoteFile& file) const;
  void write_ref() const;
  [[noreturn]] void refuse(const HttpResponse& response, const std::string& url, const std::string& file) const;
  [[noreturn]] void fail(const std::string& url, const std::string& reason) const;

  HubRepo repo_;
  std::string revision_;
  HubSettings settings_;
  HttpClient client_;
  std::filesystem::path storage_;  // of this repository, in the cache
  std::string commit_;
  std::vector<std::string> files_;
  std::optional<Error> problem_;  // why files come from the cache alone
};

// The folder of a model: config, tokenizer and template, and `weights` in safetensors (no pickle is ever downloaded).
// Throws as HubRepository; DataError for a model without safetensors.
std::filesystem::path fetch_model(const std::string& id, const std::string& revision, bool weights);

}  // namespace qlora
