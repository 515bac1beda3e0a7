#include "qlora/hub/repository.h"

#include <algorithm>
#include <cstdlib>
#include <system_error>
#include <utility>

#include <fmt/format.h>

#include "qlora/core/atomic_file.h"
#include "qlora/core/hub_name.h"
#include "qlora/core/json.h"
#include "qlora/core/log.h"
#include "qlora/core/progress.h"
#include "qlora/formats/mapped_file.h"
#include "qlora/hub/blob.h"

namespace qlora {
namespace {

namespace fs = std::filesystem;

// The cache does not answer for it: a name that is wrong is told.
struct MissingRevision : DataError {
  using DataError::DataError;
};

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

std::optional<std::uint64_t> number(const std::string& text) {
  char* end = nullptr;
  const std::uint64_t value = std::strtoull(text.c_str(), &end, 10);
  return text.empty() || *end != '\0' ? std::nullopt : std::optional(value);
}

std::string size_text(std::uint64_t bytes) {
  const auto amount = static_cast<double>(bytes);
  return bytes < 1'000'000       ? fmt::format("{:.1f} kB", amount / 1e3)
         : bytes < 1'000'000'000 ? fmt::format("{:.1f} MB", amount / 1e6)
                                 : fmt::format("{:.2f} GB", amount / 1e9);
}

}  // namespace

bool names_hub_repository(const std::string& text) {
  return is_hub_name(text) && !is_there(text) && !is_there(fs::path(text).parent_path());
}

// One file's way into blobs/.
class HubRepository::Download {
 public:
  Download(HubRepository& repository, const RemoteFile& file, Progress& progress, std::uint64_t before)
      : repository_(repository), file_(file), progress_(progress), before_(before) {}

  void run() {
    const std::string lock_name = file_.etag + ".lock";
    const FileLock lock(repository_.settings_.cache / ".locks" / cache_folder_name(repository_.repo_) / lock_name,
                        file_.name);
    if (is_there(file_.blob)) return;  // another process has it
    BlobWriter writer(file_.blob);
    const bool resumed = writer.size() > 0;
    transfer(writer);
    if (!writer.matches(file_.size, file_.etag)) {
      // What an earlier run left may be at fault; what came now may not.
      writer.restart();
      if (resumed) transfer(writer);
      if (!resumed || !writer.matches(file_.size, file_.etag)) {
        writer.discard();
        throw NetworkError(fmt::format(
            "{}: {}: came with other bytes than its {} says, and was removed; a proxy or the "
            "server alters it: try another network or HF_ENDPOINT",
            repo_text(repository_.repo_), url_for_messages(file_.url), is_sha256(file_.etag) ? "SHA-256" : "size"));
      }
    }
    writer.commit();
  }

 private:
  bool complete(const BlobWriter& writer) const { return file_.size && writer.size() == *file_.size; }

  // Until all bytes are there: a lost connection is gone on with where it broke off.
  void transfer(BlobWriter& writer) {
    if (file_.size && writer.size() > *file_.size) writer.restart();
    Retries retries;
    for (std::uint64_t most = writer.size(); !complete(writer);) {
      std::string reason = "the connection ended early", retry_after;
      try {
        const HttpResponse response = attempt(writer);
        if (response.ok() && (!file_.size || writer.size() > *file_.size)) return;
        if (response.status == 416) writer.restart();
        if (!response.ok()) {
          reason = fmt::format("HTTP status {}", response.status);
          retry_after = response.header("retry-after");
          if (!is_transient(response.status) && response.status != 416) {
            repository_.refuse(response, file_.url, file_.name);
          }
        }
      } catch (const HttpFailure& failure) {
        if (!failure.transient()) repository_.fail(file_.url, failure.what());
        reason = failure.what();
      }
      if (complete(writer)) return;
      if (writer.size() > most) most = writer.size(), retries.reset();
      if (!retries.again(retry_after)) {
        repository_.fail(file_.url, fmt::format("{} ({} tries without a byte)", reason, retries.done()));
      }
    }
  }

  HttpResponse attempt(BlobWriter& writer) {
    bool begun = false;
    const std::uint64_t offset = writer.size();
    return repository_.client_.download(file_.url, offset, [&](const HttpResponse& head, std::string_view bytes) {
      if (!std::exchange(begun, true)) {
        const bool all = head.status != 206;
        const std::string expected = fmt::format("bytes {}-", offset);
        if (all && offset > 0) writer.restart();  // the server knows no ranges
        if (!all && offset > 0 && !head.header("content-range").starts_with(expected)) {
          throw HttpFailure("the server sent another range than was asked for", false);
        }
      }
      writer.append(bytes);
      progress_.update(static_cast<std::int64_t>(before_ + writer.size()), file_.name);
    });
  }

  HubRepository& repository_;
  const RemoteFile& file_;
  Progress& progress_;
  std::uint64_t before_;
};

HubRepository::HubRepository(HubRepo repo, std::string revision, HubSettings settings)
    : repo_(std::move(repo)),
      revision_(std::move(revision)),
      settings_(std::move(settings)),
      client_(settings_),
      storage_(settings_.cache / cache_folder_name(repo_)) {
  if (authority_of(settings_.endpoint).empty()) {
    throw UsageError(fmt::format("HF_ENDPOINT: \"{}\" is no URL; write it as https://huggingface.co",
                                 url_for_messages(settings_.endpoint)));
  }
  if (!is_inner_path(revision_)) {
    throw UsageError(
        fmt::format("{}: \"{}\" cannot be a revision; name a branch, a tag or a commit", repo_text(repo_), revision_));
  }
  if (settings_.offline) {
    problem_ = NetworkError(fmt::format(
        "{} at {}: not in the cache ({}), and HF_HUB_OFFLINE is set; unset it, or download it before: hf download {}",
        repo_text(repo_), revision_, storage_.string(), repo_.id));
    if (!list_cached()) throw *problem_;
    return;
  }
  try {
    list();
  } catch (const MissingRevision&) {
    throw;
  } catch (const Error& error) {
    problem_ = error;
    if (!list_cached()) throw;
    log_warning("{}; going on with commit {} of the cache", error.what(), commit_);
  }
}

bool HubRepository::contains(const std::string& file) const {
  return std::find(files_.begin(), files_.end(), file) != files_.end();
}

// The commit that the revision is, or was when it was last downloaded.
std::string HubRepository::cached_commit() const {
  if (is_commit(revision_)) return revision_;
  const fs::path ref = storage_ / "refs" / revision_;
  const std::string commit = fs::is_regular_file(ref) ? std::string(MappedFile(ref).text()) : "";
  return is_commit(commit) ? commit : "";
}

bool HubRepository::list_cached() {
  const ExitCode code = problem_->code();
  if (code != ExitCode::kNetwork && code != ExitCode::kBadData) return false;  // a signal
  commit_ = cached_commit();
  if (commit_.empty() || !fs::is_directory(snapshot())) return false;
  for (const auto& entry : fs::recursive_directory_iterator(snapshot())) {
    if (entry.is_regular_file()) files_.push_back(entry.path().lexically_relative(snapshot()).string());
  }
  std::sort(files_.begin(), files_.end());
  return true;
}

void HubRepository::list() {
  const std::string url = listing_url(settings_.endpoint, repo_, revision_);
  const HttpResponse response = ask(/*head=*/false, url, "");
  const auto strange = [&](const std::string& what) {
    fail(url, what + ": this is no Hub (a proxy's page, or HF_ENDPOINT names something else)");
  };
  Json listing;
  try {
    listing = parse_json(response.body, "the answer");
  } catch (const DataError& error) {
    strange(error.what());
  }
  if (!listing.is_object() || !listing.contains("sha") || !listing["sha"].is_string() ||
      !listing.contains("siblings") || !listing["siblings"].is_array()) {
    strange("the answer has no 'sha' and 'siblings'");
  }
  commit_ = listing["sha"].get<std::string>();
  if (!is_commit(commit_)) strange("its 'sha' is no commit");
  for (const Json& file : listing["siblings"]) {
    if (!file.is_object() || !file.contains("rfilename") || !file["rfilename"].is_string())
      strange("a file has no name");
    const auto name = file["rfilename"].get<std::string>();
    if (is_inner_path(name)) files_.push_back(name);  // others cannot be asked for
  }
  std::sort(files_.begin(), files_.end());
}

fs::path HubRepository::fetch(const std::vector<std::string>& files) {
  std::vector<RemoteFile> missing;
  for (const std::string& file : files) {
    if (is_there(snapshot() / file)) continue;
    if (problem_)
      throw Error(problem_->code(), fmt::format("{} (its file {} is not in the cache)", problem_->what(), file));
    missing.push_back(look_up(file));
  }
  if (problem_) return snapshot();
  check_space(missing);
  std::uint64_t total = 0;
  for (const RemoteFile& file : missing) total += is_there(file.blob) ? 0 : file.size.value_or(0);
  if (total > 0) {
    log_info("{}: downloading {} files, {}, to {}", repo_text(repo_), missing.size(), size_text(total),
             storage_.string());
  }
  Progress progress("bytes", static_cast<std::int64_t>(total));
  std::uint64_t done = 0;
  for (const RemoteFile& file : missing) {
    if (!is_there(file.blob)) {
      Download(*this, file, progress, done).run();
      done += file.size.value_or(0);
    }
    link(file);
  }
  write_ref();
  return snapshot();
}

// It is downloaded from where it is asked for here, not from where that leads: such places are open for an hour.
HubRepository::RemoteFile HubRepository::look_up(const std::string& file) {
  const std::string url = file_url(settings_.endpoint, repo_, commit_, file);
  const HttpResponse head = ask(/*head=*/true, url, file);
  const std::string linked = head.header("x-linked-etag"), linked_size = head.header("x-linked-size");
  RemoteFile remote{file, url, etag_of_header(linked.empty() ? head.header("etag") : linked), {}, {}};
  if (head.header("x-repo-commit") != commit_ || !is_blob_name(remote.etag)) {
    fail(url,
         "the answer has no X-Repo-Commit and ETag: this is no Hub (a proxy, or HF_ENDPOINT names something else)");
  }
  remote.size = number(!linked_size.empty() ? linked_size : head.is_redirect() ? "" : head.header("content-length"));
  remote.blob = storage_ / "blobs" / remote.etag;
  return remote;
}

HttpResponse HubRepository::ask(bool head, const std::string& url, const std::string& file) {
  Retries retries(head || cached_commit().empty() ? 5 : 2);  // what the cache may answer is not waited for long
  for (;;) {
    std::string reason, retry_after;
    try {
      HttpResponse response = head ? client_.head(url) : client_.get(url);
      if (response.ok() || (head && response.is_redirect())) return response;
      if (!is_transient(response.status)) refuse(response, url, file);
      reason = fmt::format("HTTP status {}", response.status);
      retry_after = response.header("retry-after");
    } catch (const HttpFailure& failure) {
      if (!failure.transient()) fail(url, failure.what());
      reason = failure.what();
    }
    if (!retries.again(retry_after)) fail(url, fmt::format("{} ({} tries)", reason, retries.done()));
  }
}

void HubRepository::fail(const std::string& url, const std::string& reason) const {
  throw NetworkError(
      fmt::format("{}: {}: {}; check the network, its proxy (https_proxy) and certificates (CURL_CA_BUNDLE), and run "
                  "again: what has come is kept",
                  repo_text(repo_), url_for_messages(url), reason));
}

void HubRepository::refuse(const HttpResponse& response, const std::string& url, const std::string& file) const {
  const std::string code = response.header("x-error-code"), said = response.header("x-error-message");
  const std::string what = repo_text(repo_), shown = url_for_messages(url);
  const std::string page = page_url(settings_.endpoint, repo_), tokens = settings_.endpoint + "/settings/tokens";
  const std::string token = settings_.token.empty()
                                ? fmt::format("set HF_TOKEN to a token of your account ({})", tokens)
                                : "the token of HF_TOKEN, or of the token file, has no access yet";
  // Where large files lie; a mirror may have led to the Hub, which gives a code.
  if (code.empty() && authority_of(response.url) != authority_of(settings_.endpoint)) {
    fail(response.url, fmt::format("HTTP status {}", response.status));
  }
  if (said == "Invalid credentials in Authorization header") {
    throw DataError(
        fmt::format("{}: {}: the Hub does not know the token of HF_TOKEN, or of the token file; make a new "
                    "one at {}",
                    what, shown, tokens));
  }
  if (code == "RevisionNotFound") {
    throw MissingRevision(fmt::format("{}: there is no revision \"{}\" ({}); name a branch, a tag or a commit of it",
                                      what, revision_, shown));
  }
  if (code == "EntryNotFound") throw DataError(fmt::format("{}: there is no file {} ({})", what, file, shown));
  if (code == "GatedRepo") {
    throw DataError(fmt::format("{}: is gated ({}): accept its terms at {}, and {}", what, shown, page, token));
  }
  if (response.status == 403) {
    throw DataError(
        fmt::format("{}: the Hub refuses it ({}): {}; see whether it is still open ({}), and whether the "
                    "token may read it ({})",
                    what, shown, said.empty() ? "HTTP status 403" : said, page, tokens));
  }
  if (code == "RepoNotFound" || response.status == 401 || response.status == 404) {
    throw DataError(
        fmt::format("there is no {} on the Hub ({}), or it is private: {}; nor is there a folder of this name", what,
                    shown, token));
  }
  fail(url, fmt::format("HTTP status {}", response.status));
}

void HubRepository::check_space(const std::vector<RemoteFile>& files) const {
  std::uint64_t needed = 0;
  for (const RemoteFile& file : files) {
    if (is_there(file.blob)) continue;
    std::error_code none;
    const std::uint64_t there = fs::file_size(file.blob.string() + ".incomplete", none);
    const std::uint64_t size = file.size.value_or(0);
    needed += none || there > size ? size : size - there;
  }
  fs::path folder = storage_;
  while (!is_there(folder) && folder.has_relative_path()) folder = folder.parent_path();
  std::error_code unknown;
  const fs::space_info space = fs::space(folder, unknown);
  if (unknown || needed <= space.available) return;
  throw RuntimeFailure(
      fmt::format("{}: {} needs {} more, but {} are free; free some space, or name another folder for "
                  "the cache: HF_HOME",
                  storage_.string(), repo_text(repo_), size_text(needed), size_text(space.available)));
}

void HubRepository::link(const RemoteFile& file) const {
  const fs::path path = snapshot() / file.name;
  std::error_code error;
  fs::create_directories(path.parent_path(), error);
  if (!error && !is_there(path)) {
    fs::remove(path, error);  // a link to a blob that is gone
    fs::create_symlink(link_target(file.name, file.etag), path, error);
  }
  // Another process may have been faster.
  if (error && !is_there(path)) {
    throw RuntimeFailure(
        fmt::format("{}: cannot be linked to its blob: {}; name a folder for the cache whose file "
                    "system has symbolic links: HF_HOME",
                    path.string(), error.message()));
  }
}

void HubRepository::write_ref() const {
  if (revision_ == commit_ || cached_commit() == commit_) return;
  try {
    write_file_atomically(storage_ / "refs" / revision_, commit_);
  } catch (const RuntimeFailure& failure) {  // a cache that may be read only
    log_warning("{}", failure.what());
  }
}

}  // namespace qlora
