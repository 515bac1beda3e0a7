// The names of the Hub: of URLs, and of the files in the cache that is shared with huggingface_hub:
//
//   models--owner--name/blobs/ETAG                  a file's bytes; ETAG.incomplete while they come
//                      /refs/REVISION               the commit that a branch or tag was at
//                      /snapshots/COMMIT/FILE       -> ../../blobs/ETAG
//   .locks/models--owner--name/ETAG.lock
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace qlora {

enum class HubKind { kModel, kDataset };

// A repository of the Hub; `id` is "owner/name".
struct HubRepo {
  HubKind kind = HubKind::kModel;
  std::string id;
};

// "model Qwen/Qwen2.5-0.5B", for messages.
std::string repo_text(const HubRepo& repo);

// "models--owner--name"
std::string cache_folder_name(const HubRepo& repo);

// ENDPOINT/api/models/ID/revision/REVISION: commit and file names as JSON.
std::string listing_url(const std::string& endpoint, const HubRepo& repo, const std::string& revision);
// ENDPOINT/ID/resolve/REVISION/FILE, for data sets ENDPOINT/datasets/ID/...
std::string file_url(const std::string& endpoint, const HubRepo& repo, const std::string& revision,
                     const std::string& file);
// The page that a person opens.
std::string page_url(const std::string& endpoint, const HubRepo& repo);
// Without the query, which may hold a signature, and without a user's name and password.
std::string url_for_messages(const std::string& url);

// What an ETag header names: without W/ and quotes.
std::string etag_of_header(std::string_view header);
// Whether an ETag may be the name of a file in blobs/.
bool is_blob_name(std::string_view etag);
// An ETag of 64 hexadecimal digits is the SHA-256 of the bytes.
bool is_sha256(std::string_view etag);
// 40 hexadecimal digits.
bool is_commit(std::string_view revision);
// Whether a name from the network stays below the folder that it is put in: relative, no "..", no empty part, no
// backslash or control character.
bool is_inner_path(std::string_view name);

// What a snapshot's file links to: "../../blobs/ETAG", with "../" more for each folder in `file`.
std::filesystem::path link_target(const std::string& file, const std::string& etag);

}  // namespace qlora
