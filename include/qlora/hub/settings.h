// Where the Hugging Face Hub is reached and where its shared cache lies, by the variables that huggingface_hub reads.
#pragma once

#include <filesystem>
#include <functional>
#include <string>

namespace qlora {

struct HubSettings {
  std::string endpoint = "https://huggingface.co";  // HF_ENDPOINT; without a slash at its end
  std::filesystem::path cache;                      // HF_HUB_CACHE, HUGGINGFACE_HUB_CACHE, or `hub` in HF_HOME
  std::string token;                                // HF_TOKEN, else what HF_TOKEN_PATH (HF_HOME/token) holds
  bool offline = false;                             // HF_HUB_OFFLINE, TRANSFORMERS_OFFLINE
  int metadata_timeout = 10;                        // seconds for one answer without a file; HF_HUB_ETAG_TIMEOUT
  int download_timeout = 10;                        // seconds without a byte of a file; HF_HUB_DOWNLOAD_TIMEOUT
};

// Gives a variable's value, or null where it is not set.
using EnvironmentLookup = std::function<const char*(const char* name)>;

// HF_HOME is $XDG_CACHE_HOME/huggingface, else ~/.cache/huggingface, where it is not set. A variable that is set to
// nothing counts as unset.
HubSettings hub_settings(const EnvironmentLookup& variable);

// Of this process.
HubSettings hub_settings();

}  // namespace qlora
