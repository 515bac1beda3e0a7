#include "qlora/train/memory.h"

#include <algorithm>
#include <array>
#include <fstream>
#include <functional>
#include <limits>
#include <numeric>
#include <optional>
#include <string>

#include <ATen/Context.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <fmt/format.h>

#include "qlora/core/error.h"
#include "qlora/nn/gemm.h"
#include "qlora/nn/program_cache.h"
#include "qlora/train/optimizer.h"

namespace qlora {
namespace {

struct Candidate {
  BatchShape shape;
  std::vector<std::uint32_t> rows;
};

bool reaches(const BatchShape& a, const BatchShape& b) {
  return a.tokens >= b.tokens && a.labelled >= b.labelled;
}

void consider(const PreparedSet& set, const std::vector<std::uint32_t>& rows, at::Device device,
              std::vector<Candidate>& largest) {
  std::int64_t tokens = 0, targets = 0;
  for (const std::uint32_t row : rows) {
    tokens += set.length(row);
    targets += set.targets(row);
  }
  const BatchShape shape = bucket_shape(tokens, targets, device);
  if (std::any_of(largest.begin(), largest.end(), [&](const Candidate& c) { return reaches(c.shape, shape); })) return;
  std::erase_if(largest, [&](const Candidate& c) { return reaches(shape, c.shape); });
  largest.push_back({shape, rows});
}

// The policies from the fastest to the smallest, each of them for one block more than the level before: norms and
// activations are made again, then everything is, then the blocks' inputs wait on the host. The first blocks come
// first, because backward comes to them last, when what the others kept is gone.
constexpr std::array kPolicies = {Keep::kAll, Keep::kExpensive, Keep::kInputOnly, Keep::kInputOnHost};

// The level from which on every block has this policy.
std::size_t level_of(const std::vector<Block>& blocks, Keep policy) {
  const auto place = std::find(kPolicies.begin(), kPolicies.end(), policy);
  return static_cast<std::size_t>(place - kPolicies.begin()) * blocks.size();
}

std::vector<Keep> keep_at(const std::vector<Block>& blocks, std::size_t level) {
  const std::size_t count = blocks.size();
  const std::size_t policy = std::min(level / count, kPolicies.size() - 1);
  std::vector<Keep> keep = uniform_keep(blocks, kPolicies[policy]);
  // The embedding and the head have nothing to make again.
  const std::size_t changed = level - policy * count;
  for (std::size_t b = 1; b + 1 < count && b < changed + 1; ++b) keep[b] = kPolicies.at(policy + 1);
  return keep;
}

// A batch of so many tokens that is cut in two costs more than to compute everything again.
constexpr std::int64_t kSmallBatch = 2048;

constexpr double kGib = 1024.0 * 1024.0 * 1024.0;

// What CUDA takes for itself out of max_memory_gib: its context, kernels and graphs.
constexpr double kCudaContextGib = 0.5;

// All but the activations and their workspace.
MemoryBytes lasting_bytes(const Decoder& decoder, const TrainOptions& options) {
  MemoryBytes bytes;
  bytes.weights = decoder.store().planned_bytes();
  bytes.dequantized = decoder.store().planned_scratch_bytes();
  bytes.gradients = static_cast<std::int64_t>(decoder.parameters().grads().nbytes());
  bytes.trainable = decoder.parameters().bytes() - bytes.gradients;
  bytes.optimizer = optimizer_bytes(decoder.parameters(), adamw_settings(options), decoder.device()).device;
  bytes.workspaces = gemm_workspace_bytes(decoder.device());
  return bytes;
}

// Bytes that the run may have in all, what it holds already among them. A tenth of what is free is left to others.
std::int64_t memory_limit(const Decoder& decoder, const TrainOptions& options) {
  const WeightStore& store = decoder.store();
  const std::int64_t held =
      (store.planned() ? store.planned_bytes() : store.bytes() + store.scratch_bytes()) + decoder.parameters().bytes();
  const std::int64_t free = free_memory(decoder.device()) - (store.planned() ? held : 0);
  const std::int64_t limit = held + free / 10 * 9;
  if (!options.max_memory_gib) return limit;
  const double own = *options.max_memory_gib - (decoder.device().is_cuda() ? kCudaContextGib : 0.0);
  return std::min(limit, static_cast<std::int64_t>(own * kGib));
}

// Moves to host memory what is no activation, until `fits` says that the rest does.
void move_lasting(const Decoder& decoder, const TrainOptions& options, const std::function<bool()>& fits,
                  RunPlan& plan) {
  const std::int64_t table = decoder.movable_embedding_bytes();
  if (table > 0 && !fits()) {
    plan.bytes.weights -= table;
    plan.host.embedding = table;
  }
  AdamWSettings settings = adamw_settings(options);
  settings.paged = true;
  const OptimizerBytes paged = optimizer_bytes(decoder.parameters(), settings, decoder.device());
  if (paged.device < plan.bytes.optimizer && !fits()) {
    plan.bytes.optimizer = paged.device;
    plan.host.optimizer = paged.host;
    plan.pages_optimizer = true;
  }
}

void set_lean(RunPlan& plan, bool lean) {
  plan.lean = lean;
  for (LargestBatch& b : plan.largest) b.shape.lean = lean;
}

void refuse_host(const Decoder& decoder, const HostBytes& host) {
  const std::int64_t free = free_memory(at::kCPU);
  if (decoder.store().planned() || host.total() <= free) return;
  throw OutOfMemory(
      fmt::format("the plan keeps {} in host memory, of which {:.2f} GiB are free; lower "
                  "per_device_train_batch_size or max_length, or raise max_memory_gib",
                  host.text(), static_cast<double>(free) / kGib));
}

[[noreturn]] void refuse_limit(double gib, const MemoryBytes& bytes) {
  throw OutOfMemory(fmt::format(
      "max_memory_gib: {:g} GiB do not suffice: weights take {:.2f} GiB, all else at least {:.2f}; raise it, or {}",
      gib, static_cast<double>(bytes.weights) / kGib, static_cast<double>(bytes.total() - bytes.weights) / kGib,
      static_cast<double>(bytes.weights) / kGib < gib ? "lower per_device_train_batch_size or max_length"
                                                      : "take a smaller model"));
}

// "weights 0.583, dequantized 0.042 GiB"
std::string text_of(const Json& kinds) {
  std::string text;
  for (const auto& [kind, bytes] : kinds.items()) {
    text += fmt::format("{}{} {:.3f}", text.empty() ? "" : ", ", kind, bytes.get<double>() / kGib);
  }
  return text + " GiB";
}

constexpr std::int64_t kUnlimited = std::numeric_limits<std::int64_t>::max();

// The number behind `label` in a file of /proc or /sys; none where it says "max" or is not there.
std::optional<std::int64_t> number_in(const char* path, const std::string& label = "") {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(label) && line != "max") return std::strtoll(line.c_str() + label.size(), nullptr, 10);
  }
  return std::nullopt;
}

}  // namespace

std::vector<LargestBatch> largest_batches(const PreparedSet& set, const BatchOptions& options, std::int64_t steps,
                                          at::Device device, std::int64_t merged_count) {
  std::vector<Candidate> largest;
  std::int64_t left = steps, most_rows = 0, longest = 0;
  for (std::int64_t e = 0; left > 0; ++e) {
    const Epoch epoch(set, options, e);
    for (std::int64_t s = 0; s < epoch.steps() && left > 0; ++s, --left) {
      for (const auto& rows : merged(epoch.step(s), merged_count).micro_batches) {
        consider(set, rows, device, largest);
        most_rows = std::max(most_rows, static_cast<std::int64_t>(rows.size()));
        for (const std::uint32_t row : rows) longest = std::max(longest, set.length(row));
      }
    }
  }
  std::sort(largest.begin(), largest.end(),
            [](const auto& a, const auto& b) { return a.shape.tokens > b.shape.tokens; });
  std::vector<LargestBatch> batches;
  batches.reserve(largest.size());
  for (const Candidate& c : largest) batches.push_back({c.shape, pack_rows(set, c.rows, 0)});
  for (LargestBatch& b : batches) {
    b.shape.rows = most_rows;
    b.shape.length = longest;
  }
  return batches;
}

StepRows merged(const StepRows& step, std::int64_t count) {
  if (count <= 1) return step;
  StepRows result{{}, step.targets, step.tokens};
  for (std::size_t m = 0; m < step.micro_batches.size(); ++m) {
    if (m % static_cast<std::size_t>(count) == 0) result.micro_batches.emplace_back();
    auto& rows = result.micro_batches.back();
    rows.insert(rows.end(), step.micro_batches[m].begin(), step.micro_batches[m].end());
  }
  return result;
}

ActivationBytes activation_bytes(const std::vector<Block>& blocks, const std::vector<Keep>& keep,
                                 const std::vector<LargestBatch>& batches) {
  ActivationBytes bytes;
  for (const LargestBatch& b : batches) {
    const Program program(blocks, b.shape, Pass::kTraining, keep);
    bytes.arena = std::max(bytes.arena, program.arena_bytes());
    bytes.workspace = std::max(bytes.workspace, program.workspace_bytes());
    const auto& pieces = program.host_pieces();
    bytes.host = std::max(bytes.host, std::accumulate(pieces.begin(), pieces.end(), std::int64_t{0}));
  }
  return bytes;
}

std::vector<Keep> choose_keep(Checkpointing checkpointing, const std::vector<Block>& blocks,
                              const std::vector<LargestBatch>& batches, std::int64_t budget) {
  if (checkpointing == Checkpointing::kOff) return keep_at(blocks, 0);
  const bool has_host = !batches.front().shape.device.is_cpu();
  std::size_t least = checkpointing == Checkpointing::kOn ? level_of(blocks, Keep::kInputOnly) : 0;
  std::size_t most = level_of(blocks, has_host ? Keep::kInputOnHost : Keep::kInputOnly);
  while (least < most) {
    const std::size_t level = (least + most) / 2;
    if (activation_bytes(blocks, keep_at(blocks, level), batches).total() <= budget) {
      most = level;
    } else {
      least = level + 1;
    }
  }
  return keep_at(blocks, least);
}

std::int64_t MemoryBytes::total() const {
  return weights + dequantized + trainable + gradients + optimizer + activations + workspaces + evaluation;
}

Json MemoryBytes::to_json() const {
  return {{"weights", weights},       {"dequantized", dequantized}, {"trainable", trainable},
          {"gradients", gradients},   {"optimizer", optimizer},     {"activations", activations},
          {"workspaces", workspaces}, {"evaluation", evaluation},   {"total", total()}};
}

std::string MemoryBytes::text() const {
  return text_of(to_json());
}

std::int64_t HostBytes::total() const {
  return embedding + optimizer + block_inputs;
}

Json HostBytes::to_json() const {
  return {{"embedding", embedding}, {"optimizer", optimizer}, {"block_inputs", block_inputs}};
}

std::string HostBytes::text() const {
  Json kinds = Json::object();
  const Json all = to_json();
  for (const auto& [kind, bytes] : all.items()) {
    if (bytes != 0) kinds[kind] = bytes;
  }
  return kinds.empty() ? "nothing" : text_of(kinds);
}

RunPlan plan_run(const Decoder& decoder, const TrainOptions& options, const PreparedSet& set,
                 const BatchOptions& batches, std::int64_t steps, std::int64_t evaluation_bytes) {
  const at::Device device = decoder.device();
  const auto& blocks = decoder.blocks(HeadKind::kLoss);
  RunPlan plan;
  plan.bytes = lasting_bytes(decoder, options);
  plan.bytes.evaluation = evaluation_bytes;
  const std::int64_t limit = memory_limit(decoder, options);
  plan.host.optimizer = optimizer_bytes(decoder.parameters(), adamw_settings(options), device).host;
  const bool recomputes = options.gradient_checkpointing == Checkpointing::kAuto;
  const bool merges =
      device.is_cuda() && !options.deterministic && options.gradient_checkpointing != Checkpointing::kOn;
  const auto fits = [&](std::size_t level) {
    return activation_bytes(blocks, keep_at(blocks, level), plan.largest).total() <= limit - plan.bytes.total();
  };
  const auto choose = [&](std::int64_t count) {
    plan.merged = count;
    plan.largest = largest_batches(set, batches, steps, device, count);
    if (count == 1) return true;
    const std::int64_t tokens = plan.largest.front().batch.tokens();
    const std::size_t level = level_of(blocks, tokens <= kSmallBatch ? Keep::kInputOnly : Keep::kExpensive);
    return tokens <= kMergedTokens && fits(recomputes ? level : 0);
  };
  std::int64_t count = merges ? batches.accumulation : 1;
  while (!choose(count)) count = (count + 1) / 2;
  if (!device.is_cpu()) {
    const bool keeps_all = options.gradient_checkpointing == Checkpointing::kOff;
    const std::size_t smallest = keeps_all ? 0 : level_of(blocks, Keep::kInputOnly);
    move_lasting(
        decoder, options, [&] { return fits(smallest); }, plan);
    const std::size_t last = keeps_all ? 0 : level_of(blocks, Keep::kInputOnHost);
    if (!options.deterministic && !fits(last)) set_lean(plan, true);
  }
  plan.keep = choose_keep(options.gradient_checkpointing, blocks, plan.largest, limit - plan.bytes.total());
  const ActivationBytes activations = activation_bytes(blocks, plan.keep, plan.largest);
  plan.bytes.activations = activations.arena;
  plan.bytes.workspaces += activations.workspace;
  plan.host.block_inputs = activations.host;
  if (options.max_memory_gib && plan.bytes.total() > limit) refuse_limit(*options.max_memory_gib, plan.bytes);
  refuse_host(decoder, plan.host);
  return plan;
}

std::int64_t peak_allocated(at::Device device) {
  return c10::getDeviceAllocator(device.type())->getDeviceStats(device.index()).allocated_bytes[0].peak;
}

std::int64_t used_memory(at::Device device) {
  const auto [free, total] = c10::getDeviceAllocator(device.type())->getMemoryInfo(device.index());
  return static_cast<std::int64_t>(total - free);
}

std::int64_t free_memory(at::Device device) {
  if (device.is_cuda() && !at::hasCUDA()) return kUnlimited;  // planned for a machine that this is not
  if (!device.is_cpu()) {
    return static_cast<std::int64_t>(c10::getDeviceAllocator(device.type())->getMemoryInfo(device.index()).first);
  }
  constexpr std::int64_t kKib = 1024;
  const std::int64_t machine = number_in("/proc/meminfo", "MemAvailable:").value_or(kUnlimited / kKib) * kKib;
  const auto limit = number_in("/sys/fs/cgroup/memory.max");
  if (!limit) return machine;
  const std::int64_t used = number_in("/sys/fs/cgroup/memory.current").value_or(0);
  return std::min(machine, std::max<std::int64_t>(0, *limit - used));
}

}  // namespace qlora
