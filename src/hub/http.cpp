#include "qlora/hub/http.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <chrono>
#include <cstdlib>
#include <exception>
#include <initializer_list>
#include <mutex>
#include <thread>

#include <curl/curl.h>
#include <fmt/format.h>

#include "qlora/core/error.h"
#include "qlora/core/signal.h"
#include "qlora/core/version.h"
#include "qlora/hub/layout.h"

namespace qlora {
namespace {

constexpr int kRedirects = 10;
constexpr std::size_t kLargestListing = 64 << 20;

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), [](unsigned char c) { return std::tolower(c); });
  return out;
}

std::string_view trimmed(std::string_view text) {
  const std::size_t first = text.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos) return "";
  return text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1);
}

// What a request's callbacks write to. They are called by C code, which an exception must not cross.
struct Exchange {
  HttpResponse response;
  CURL* curl = nullptr;
  const HttpClient::Take* take = nullptr;
  std::exception_ptr thrown;
};

std::size_t on_header(char* data, std::size_t, std::size_t size, void* user) {
  HttpResponse& response = static_cast<Exchange*>(user)->response;
  const std::string_view line = trimmed({data, size});
  if (line.starts_with("HTTP/")) response.headers.clear();  // of a redirect, or of the proxy
  const std::size_t colon = line.find(':');
  if (colon != std::string_view::npos) {
    response.headers[lower(line.substr(0, colon))] = std::string(trimmed(line.substr(colon + 1)));
  }
  return size;
}

std::size_t on_body(char* data, std::size_t, std::size_t size, void* user) {
  auto& exchange = *static_cast<Exchange*>(user);
  HttpResponse& response = exchange.response;
  curl_easy_getinfo(exchange.curl, CURLINFO_RESPONSE_CODE, &response.status);
  try {
    if (exchange.take != nullptr && response.ok()) {
      (*exchange.take)(response, {data, size});
    } else if (response.ok()) {
      if (response.body.size() + size > kLargestListing) throw HttpFailure("the answer is too long", false);
      response.body.append(data, size);
    }
  } catch (...) {
    exchange.thrown = std::current_exception();
    return 0;
  }
  return size;
}

int on_progress(void*, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  return stop_requested() ? 1 : 0;
}

// What another try does not mend.
bool is_permanent(CURLcode code) {
  constexpr std::array kPermanent = {CURLE_UNSUPPORTED_PROTOCOL, CURLE_URL_MALFORMAT,
                                     CURLE_NOT_BUILT_IN,         CURLE_COULDNT_RESOLVE_PROXY,
                                     CURLE_OUT_OF_MEMORY,        CURLE_PEER_FAILED_VERIFICATION,
                                     CURLE_SSL_CACERT_BADFILE,   CURLE_TOO_MANY_REDIRECTS};
  return std::find(kPermanent.begin(), kPermanent.end(), code) != kPermanent.end();
}

// The library reads none of these by itself; the program `curl` and Python's clients do.
void set_certificates(CURL* curl) {
  for (const char* name : {"CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"}) {
    const char* file = std::getenv(name);
    if (file == nullptr || *file == '\0') continue;
    curl_easy_setopt(curl, CURLOPT_CAINFO, file);
    break;
  }
  const char* folder = std::getenv("SSL_CERT_DIR");
  if (folder != nullptr && *folder != '\0') curl_easy_setopt(curl, CURLOPT_CAPATH, folder);
}

class HeaderList {
 public:
  HeaderList() = default;
  ~HeaderList() { curl_slist_free_all(list_); }
  HeaderList(const HeaderList&) = delete;
  HeaderList& operator=(const HeaderList&) = delete;

  void add(const std::string& line) { list_ = curl_slist_append(list_, line.c_str()); }
  curl_slist* get() const { return list_; }

 private:
  curl_slist* list_ = nullptr;
};

struct Url {
  CURLU* parts = curl_url();
  explicit Url(const std::string& text) : known(set(text)) {}
  ~Url() { curl_url_cleanup(parts); }
  Url(const Url&) = delete;
  Url& operator=(const Url&) = delete;

  bool set(const std::string& text) { return curl_url_set(parts, CURLUPART_URL, text.c_str(), 0) == CURLUE_OK; }
  std::string get(CURLUPart part) const {
    char* text = nullptr;
    if (curl_url_get(parts, part, &text, part == CURLUPART_PORT ? CURLU_DEFAULT_PORT : 0) != CURLUE_OK) return "";
    std::string result = text;
    curl_free(text);
    return result;
  }

  bool known;
};

bool is_relative(const std::string& location) {
  return !location.starts_with("//") && location.find("://") == std::string::npos;
}

}  // namespace

struct HttpClient::Request {
  std::string url;
  bool head = false;
  bool follow = true;
  std::uint64_t offset = 0;
  const Take* take = nullptr;
};

std::string HttpResponse::header(const std::string& name) const {
  const auto found = headers.find(name);
  return found == headers.end() ? "" : found->second;
}

HttpClient::HttpClient(const HubSettings& settings) : settings_(settings) {
  static std::once_flag once;
  std::call_once(once, [] { curl_global_init(CURL_GLOBAL_DEFAULT); });
  curl_ = curl_easy_init();
  if (curl_ == nullptr) throw RuntimeFailure("libcurl cannot be started");
}

HttpClient::~HttpClient() {
  curl_easy_cleanup(curl_);
}

// A mirror may lead on to the Hub itself.
bool HttpClient::is_hub(const std::string& url) const {
  const std::string authority = authority_of(url);
  return authority == authority_of(settings_.endpoint) || authority == "https://huggingface.co:443";
}

HttpResponse HttpClient::perform(const Request& request) {
  CURL* curl = curl_;
  curl_easy_reset(curl);  // keeps connections
  Exchange exchange;
  exchange.curl = curl;
  exchange.take = request.take;
  HeaderList headers;
  if (request.head || request.take != nullptr) headers.add("Accept-Encoding: identity");
  // libcurl sends this to the first host alone, whatever it redirects to.
  if (!settings_.token.empty() && is_hub(request.url)) headers.add("Authorization: Bearer " + settings_.token);
  std::array<char, CURL_ERROR_SIZE> reason{};
  const std::string agent = fmt::format("qlora/{}", kVersion);
  const std::string range = fmt::format("{}-", request.offset);
  curl_easy_setopt(curl, CURLOPT_URL, request.url.c_str());
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(curl, CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(curl, CURLOPT_NOBODY, request.head ? 1L : 0L);
  curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, request.follow ? 1L : 0L);
  curl_easy_setopt(curl, CURLOPT_MAXREDIRS, static_cast<long>(kRedirects));
  curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers.get());
  curl_easy_setopt(curl, CURLOPT_USERAGENT, agent.c_str());
  if (request.offset > 0) curl_easy_setopt(curl, CURLOPT_RANGE, range.c_str());
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, reason.data());
  const bool is_file = request.take != nullptr;
  const long silence = is_file ? settings_.download_timeout : settings_.metadata_timeout;
  curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, silence);
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, silence);
  curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, on_header);
  curl_easy_setopt(curl, CURLOPT_HEADERDATA, &exchange);
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_body);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &exchange);
  curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
  curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_progress);
  set_certificates(curl);
  const CURLcode code = curl_easy_perform(curl);
  if (exchange.thrown) std::rethrow_exception(exchange.thrown);
  throw_if_stopped();
  if (code != CURLE_OK) {
    throw HttpFailure(reason[0] != '\0' ? reason.data() : curl_easy_strerror(code), !is_permanent(code));
  }
  const char* url = nullptr;
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &exchange.response.status);
  curl_easy_getinfo(curl, CURLINFO_EFFECTIVE_URL, &url);
  exchange.response.url = url != nullptr ? url : request.url;
  return std::move(exchange.response);
}

HttpResponse HttpClient::head(const std::string& url) {
  std::string at = url;
  for (int redirects = 0;; ++redirects) {
    HttpResponse response = perform({.url = at, .head = true, .follow = false});
    if (!response.is_redirect()) return response;
    const std::string location = response.header("location");
    const bool to_hub = response.header("x-repo-commit").empty() && is_hub(resolve_url(at, location));
    if (!is_relative(location) && !to_hub) return response;
    if (redirects == kRedirects) throw HttpFailure("too many redirects", false);
    at = resolve_url(at, location);
  }
}

HttpResponse HttpClient::get(const std::string& url) {
  return perform({.url = url});
}

HttpResponse HttpClient::download(const std::string& url, std::uint64_t offset, const Take& take) {
  return perform({.url = url, .offset = offset, .take = &take});
}

std::string resolve_url(const std::string& base, const std::string& location) {
  Url url(base);
  return url.known && url.set(location) ? url.get(CURLUPART_URL) : "";
}

std::string authority_of(const std::string& url) {
  const Url parts(url);
  if (!parts.known) return "";
  return lower(
      fmt::format("{}://{}:{}", parts.get(CURLUPART_SCHEME), parts.get(CURLUPART_HOST), parts.get(CURLUPART_PORT)));
}

bool Retries::again(const std::string& retry_after) {
  using namespace std::chrono_literals;
  if (done_ >= tries_) return false;
  auto wait = 500ms * (1 << std::min(done_ - 1, 6));
  const int asked = std::atoi(retry_after.c_str());
  if (asked > 0) wait = 1000ms * std::min(asked, 60);
  ++done_;
  for (; wait > 0ms; wait -= 100ms) {
    throw_if_stopped();
    std::this_thread::sleep_for(std::min<std::chrono::milliseconds>(wait, 100ms));
  }
  return true;
}

bool is_transient(long status) {
  return status == 408 || status == 429 || status >= 500;
}

}  // namespace qlora
