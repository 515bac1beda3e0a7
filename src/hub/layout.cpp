#include "qlora/hub/layout.h"

#include <algorithm>
#include <cctype>

#include <fmt/format.h>

namespace qlora {
namespace {

bool is_hex(std::string_view text, std::size_t digits) {
  return text.size() == digits &&
         std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

// Percent-encoded as RFC 3986 has it; `spared` stays beside the unreserved characters.
std::string url_part(std::string_view text, std::string_view spared = "") {
  std::string out;
  for (const unsigned char c : text) {
    const bool plain =
        (std::isalnum(c) != 0 && c < 0x80) || std::string_view("-._~").find(char(c)) != std::string::npos;
    if (plain || spared.find(static_cast<char>(c)) != std::string_view::npos) {
      out += static_cast<char>(c);
    } else {
      out += fmt::format("%{:02X}", c);
    }
  }
  return out;
}

const char* kind_name(HubKind kind) {
  return kind == HubKind::kModel ? "models" : "datasets";
}

}  // namespace

std::string repo_text(const HubRepo& repo) {
  return (repo.kind == HubKind::kModel ? "model " : "data set ") + repo.id;
}

std::string cache_folder_name(const HubRepo& repo) {
  std::string name = fmt::format("{}--{}", kind_name(repo.kind), repo.id);
  const std::size_t slash = name.find('/');
  return slash == std::string::npos ? name : name.replace(slash, 1, "--");
}

std::string listing_url(const std::string& endpoint, const HubRepo& repo, const std::string& revision) {
  return fmt::format("{}/api/{}/{}/revision/{}", endpoint, kind_name(repo.kind), repo.id, url_part(revision));
}

std::string file_url(const std::string& endpoint, const HubRepo& repo, const std::string& revision,
                     const std::string& file) {
  return fmt::format("{}/resolve/{}/{}", page_url(endpoint, repo), url_part(revision), url_part(file, "/"));
}

std::string page_url(const std::string& endpoint, const HubRepo& repo) {
  return fmt::format("{}/{}{}", endpoint, repo.kind == HubKind::kModel ? "" : "datasets/", repo.id);
}

std::string url_for_messages(const std::string& url) {
  std::string shown = url.substr(0, url.find_first_of("?#"));
  const std::size_t start = shown.find("://");
  if (start == std::string::npos) return shown;
  const std::size_t host = start + 3, path = shown.find('/', host);
  const std::size_t user = shown.substr(0, path).rfind('@');
  return user == std::string::npos || user < host ? shown : shown.erase(host, user + 1 - host);
}

std::string etag_of_header(std::string_view header) {
  if (header.starts_with("W/")) header.remove_prefix(2);
  while (header.starts_with('"')) header.remove_prefix(1);
  while (header.ends_with('"')) header.remove_suffix(1);
  return std::string(header);
}

bool is_blob_name(std::string_view etag) {
  constexpr std::size_t kLongest = 128;
  return !etag.empty() && etag.size() <= kLongest && etag.front() != '.' &&
         std::all_of(etag.begin(), etag.end(), [](unsigned char c) {
           return c < 0x80 && (std::isalnum(c) != 0 || c == '-' || c == '_' || c == '.');
         });
}

bool is_sha256(std::string_view etag) {
  return is_hex(etag, 64);
}

bool is_commit(std::string_view revision) {
  return is_hex(revision, 40);
}

bool is_inner_path(std::string_view name) {
  if (std::any_of(name.begin(), name.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f || c == '\\'; })) {
    return false;
  }
  for (std::size_t start = 0; start <= name.size();) {
    const std::size_t end = std::min(name.find('/', start), name.size());
    const std::string_view part = name.substr(start, end - start);
    if (part.empty() || part == "." || part == "..") return false;
    start = end + 1;
  }
  return true;
}

std::filesystem::path link_target(const std::string& file, const std::string& etag) {
  std::string target = "../../";
  for (const char c : file) target += c == '/' ? "../" : "";
  return target + "blobs/" + etag;
}

}  // namespace qlora
