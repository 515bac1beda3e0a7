#include "qlora/hub/settings.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <fstream>
#include <initializer_list>
#include <iterator>

namespace qlora {
namespace {

namespace fs = std::filesystem;

// A token pasted with its line's end or in a copied line works as well.
std::string without_space(std::string text) {
  std::erase_if(text, [](unsigned char c) { return std::isspace(c) != 0; });
  return text;
}

class Environment {
 public:
  explicit Environment(const EnvironmentLookup& variable) : variable_(variable) {}

  // The first of these that is set.
  std::string text(std::initializer_list<const char*> names, const std::string& otherwise = "") const {
    for (const char* name : names) {
      const char* value = variable_(name);
      if (value != nullptr && *value != '\0') return value;
    }
    return otherwise;
  }

  fs::path path(std::initializer_list<const char*> names, const fs::path& otherwise) const {
    const std::string value = text(names);
    if (value.empty()) return otherwise;
    if (value == "~" || value.starts_with("~/")) return home() / value.substr(std::min<std::size_t>(2, value.size()));
    return value;
  }

  bool is_true(std::initializer_list<const char*> names) const {
    std::string value = text(names);
    std::transform(value.begin(), value.end(), value.begin(), [](unsigned char c) { return std::toupper(c); });
    return value == "1" || value == "ON" || value == "YES" || value == "TRUE";
  }

  int seconds(const char* name, int otherwise) const {
    const int value = std::atoi(text({name}).c_str());
    return value > 0 ? value : otherwise;
  }

  fs::path home() const { return text({"HOME"}, "/"); }

 private:
  const EnvironmentLookup& variable_;
};

std::string read_text(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

HubSettings hub_settings(const EnvironmentLookup& variable) {
  const Environment environment(variable);
  const fs::path caches = environment.path({"XDG_CACHE_HOME"}, environment.home() / ".cache");
  const fs::path home = environment.path({"HF_HOME"}, caches / "huggingface");
  HubSettings settings;
  settings.endpoint = environment.text({"HF_ENDPOINT"}, settings.endpoint);
  while (settings.endpoint.ends_with('/')) settings.endpoint.pop_back();
  settings.cache = fs::absolute(environment.path({"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"}, home / "hub"));
  settings.token = without_space(environment.text({"HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"}));
  if (settings.token.empty())
    settings.token = without_space(read_text(environment.path({"HF_TOKEN_PATH"}, home / "token")));
  settings.offline = environment.is_true({"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"});
  settings.metadata_timeout = environment.seconds("HF_HUB_ETAG_TIMEOUT", settings.metadata_timeout);
  settings.download_timeout = environment.seconds("HF_HUB_DOWNLOAD_TIMEOUT", settings.download_timeout);
  return settings;
}

HubSettings hub_settings() {
  return hub_settings([](const char* name) { return std::getenv(name); });
}

}  // namespace qlora
