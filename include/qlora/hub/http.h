// HTTP as the Hub needs it, by libcurl: its proxies (http_proxy, https_proxy, all_proxy, no_proxy) and certificates
// (CURL_CA_BUNDLE, REQUESTS_CA_BUNDLE, SSL_CERT_FILE, SSL_CERT_DIR).
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>

#include "qlora/hub/settings.h"

namespace qlora {

struct HttpResponse {
  std::string url;  // after the redirects that were followed
  long status = 0;
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;                            // empty for a download, and where the status is an error's

  bool ok() const { return status >= 200 && status < 300; }
  bool is_redirect() const { return status >= 300 && status < 400 && headers.contains("location"); }
  // The empty string where it is not there.
  std::string header(const std::string& name) const;
};

// No whole answer came. `transient`: another try may help.
class HttpFailure : public std::runtime_error {
 public:
  HttpFailure(const std::string& message, bool transient) : std::runtime_error(message), transient_(transient) {}
  bool transient() const { return transient_; }

 private:
  bool transient_;
};

// One connection after the other, kept open between requests. The token goes to the Hub alone, never to where it
// redirects. All throw HttpFailure where no answer came, and Error where a signal has.
class HttpClient {
 public:
  explicit HttpClient(const HubSettings& settings);
  ~HttpClient();
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;

  // Follows redirects that stay at the Hub; the answer may be one that leads elsewhere.
  HttpResponse head(const std::string& url);
  // Follows all redirects.
  HttpResponse get(const std::string& url);
  // The bytes from `offset` on, given to `take` with the answer's head, as they come: status 206, or 200 for all bytes.
  using Take = std::function<void(const HttpResponse& head, std::string_view bytes)>;
  HttpResponse download(const std::string& url, std::uint64_t offset, const Take& take);

 private:
  struct Request;
  HttpResponse perform(const Request& request);
  bool is_hub(const std::string& url) const;

  const HubSettings& settings_;
  void* curl_;  // CURL*
};

// `location` as seen from `base`.
std::string resolve_url(const std::string& base, const std::string& location);
// "https://host:443": what has to be equal for a token to be sent along.
std::string authority_of(const std::string& url);

// How often and when to try again: after 0.5, 1, 2 and 4 seconds, or when the server says (at most a minute).
class Retries {
 public:
  explicit Retries(int tries = 5) : tries_(tries) {}
  // Waits; false where all tries are used up. Throws Error where a signal comes.
  bool again(const std::string& retry_after = "");
  // Something came: count anew.
  void reset() { done_ = 1; }
  int done() const { return done_; }

 private:
  int tries_;
  int done_ = 1;
};

// 408, 429 and the server's own errors.
bool is_transient(long status);

}  // namespace qlora
