#include "qlora/train/checkpoint.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>

#include <ATen/ops/empty.h>
#include <fmt/format.h>

#include "qlora/core/atomic_file.h"
#include "qlora/core/error.h"
#include "qlora/core/hash.h"
#include "qlora/core/log.h"
#include "qlora/formats/mapped_file.h"
#include "qlora/formats/safetensors.h"

namespace qlora {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPrefix = "checkpoint-";
constexpr const char* kManifest = "manifest.json";
constexpr const char* kState = "training_state.json";
constexpr const char* kOptimizer = "optimizer.safetensors";

std::string sha256_of_file(const fs::path& path) {
  return sha256(MappedFile(path).text());
}

constexpr const char* kValues = "values";

// What the optimizer's tensors are made of.
constexpr std::array<std::pair<ElementType, at::ScalarType>, 3> kTypes = {
    {{ElementType::kF64, at::kDouble}, {ElementType::kF32, at::kFloat}, {ElementType::kU8, at::kByte}}};

HostTensor host_view(const at::Tensor& tensor) {
  const auto* type = std::find_if(kTypes.begin(), kTypes.end(),
                                  [&](const auto& known) { return known.second == tensor.scalar_type(); });
  TORCH_CHECK(type != kTypes.end(), "the optimizer's state has the type ", tensor.scalar_type());
  return {type->first, tensor.sizes().vec(), {static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()}};
}

void write_optimizer(const fs::path& path, const OptimizerState& state) {
  std::map<std::string, at::Tensor> held{{kValues, state.values.cpu()}};
  for (const auto& [name, moments] : state.moments) held.emplace(name, moments.cpu());
  std::map<std::string, HostTensor> tensors;
  for (const auto& [name, tensor] : held) tensors.emplace(name, host_view(tensor));
  write_safetensors(path, tensors);
}

at::Tensor read_flat(const SafetensorsFile& file, const std::string& name) {
  const HostTensor tensor = file.tensor(name);
  const auto* type =
      std::find_if(kTypes.begin(), kTypes.end(), [&](const auto& known) { return known.first == tensor.type; });
  if (type == kTypes.end()) {
    throw DataError(fmt::format("{}: tensor '{}' must be F32, F64 or U8", file.path().string(), name));
  }
  at::Tensor copy = at::empty(tensor.shape, type->second);
  if (!tensor.bytes.empty()) std::memcpy(copy.mutable_data_ptr(), tensor.bytes.data(), tensor.bytes.size());
  return copy;
}

OptimizerState read_optimizer(const fs::path& path) {
  const SafetensorsFile file(path);
  OptimizerState state{read_flat(file, kValues), {}};
  for (const SafetensorsEntry& entry : file.entries()) {
    const std::string& name = entry.spec.name;
    if (name != kValues) state.moments.emplace(name, read_flat(file, name));
  }
  return state;
}

std::vector<fs::path> files_below(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file()) files.push_back(fs::relative(entry.path(), folder));
  }
  std::sort(files.begin(), files.end());
  return files;
}

void write_manifest(const fs::path& folder, std::int64_t step) {
  Json manifest{{"format", 1}, {"step", step}, {"files", Json::object()}};
  for (const fs::path& file : files_below(folder)) {
    manifest["files"][file.generic_string()] = {{"bytes", fs::file_size(folder / file)},
                                                {"sha256", sha256_of_file(folder / file)}};
  }
  write_file_atomically(folder / kManifest, manifest.dump(2) + "\n");
}

std::optional<std::string> file_problem(const fs::path& folder, const std::string& name, const Json& entry) {
  const fs::path path = folder / name;
  std::error_code error;
  const auto size = fs::file_size(path, error);
  if (error) return fmt::format("{} is missing", name);
  if (size != entry.at("bytes").get<std::uintmax_t>()) {
    return fmt::format("{} has {} bytes, {} were written", name, size, entry.at("bytes").get<std::uintmax_t>());
  }
  if (sha256_of_file(path) != entry.at("sha256").get<std::string>())
    return fmt::format("{} is damaged: its SHA-256 differs", name);
  return std::nullopt;
}

std::optional<std::int64_t> step_of(const fs::path& folder) {
  const std::string name = folder.filename().string();
  if (!name.starts_with(kPrefix)) return std::nullopt;
  std::int64_t step = 0;
  const char* end = name.data() + name.size();
  const auto [rest, error] = std::from_chars(name.data() + std::strlen(kPrefix), end, step);
  return error == std::errc{} && rest == end ? std::optional(step) : std::nullopt;
}

}  // namespace

fs::path save_checkpoint(const fs::path& output, std::int64_t step, const CheckpointState& state,
                         const std::function<void(const fs::path&)>& save_model) {
  const fs::path path = output / (kPrefix + std::to_string(step));
  AtomicFolder folder(path);
  save_model(folder.temporary());
  write_optimizer(folder.temporary() / kOptimizer, state.optimizer);
  write_file_atomically(folder.temporary() / kState, state.run.dump(2) + "\n");
  write_manifest(folder.temporary(), step);
  folder.commit();
  return path;
}

std::optional<std::string> checkpoint_problem(const fs::path& folder) {
  try {
    if (!fs::exists(folder / kManifest)) return std::string(kManifest) + " is missing";
    const Json manifest = read_json(folder / kManifest);
    const Json& files = manifest.at("files");
    if (!files.contains(kState) || !files.contains(kOptimizer)) return std::string(kManifest) + " names no state";
    const auto step = manifest.at("step").get<std::int64_t>();
    if (step_of(folder).value_or(step) != step) return fmt::format("{} is of step {}", kManifest, step);
    for (const auto& [name, entry] : files.items()) {
      if (auto problem = file_problem(folder, name, entry)) return problem;
    }
  } catch (const std::exception& error) {
    return error.what();
  }
  return std::nullopt;
}

CheckpointState load_checkpoint(const fs::path& folder) {
  if (const auto problem = checkpoint_problem(folder)) {
    throw DataError(
        fmt::format("{}: {}; name another checkpoint, or resume_from_checkpoint: none", folder.string(), *problem));
  }
  return {read_json(folder / kState), read_optimizer(folder / kOptimizer)};
}

std::vector<std::pair<std::int64_t, fs::path>> list_checkpoints(const fs::path& output) {
  std::vector<std::pair<std::int64_t, fs::path>> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(output, error)) {
    if (const auto step = step_of(entry.path()); step && entry.is_directory()) found.emplace_back(*step, entry.path());
  }
  std::sort(found.begin(), found.end());
  return found;
}

std::optional<fs::path> newest_valid_checkpoint(const fs::path& output) {
  auto found = list_checkpoints(output);
  for (auto it = found.rbegin(); it != found.rend(); ++it) {
    const auto problem = checkpoint_problem(it->second);
    if (!problem) return it->second;
    log_warning("{}: {}; an older checkpoint is taken instead", it->second.string(), *problem);
  }
  return std::nullopt;
}

void rotate_checkpoints(const fs::path& output, std::int64_t limit, const std::optional<fs::path>& keep) {
  auto found = list_checkpoints(output);
  if (static_cast<std::int64_t>(found.size()) <= limit || checkpoint_problem(found.back().second)) return;
  auto excess = static_cast<std::int64_t>(found.size()) - std::max<std::int64_t>(limit, 1);
  for (std::size_t i = 0; i + 1 < found.size() && excess > 0; ++i) {
    if (keep && found[i].second == *keep) continue;
    fs::remove_all(found[i].second);
    --excess;
  }
}

}  // namespace qlora
