#include "qlora/app/cost.h"

#include <chrono>
#include <cmath>

#include <ATen/Context.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>
#include <fmt/format.h>

namespace qlora {

std::shared_ptr<WeightStore> planned_store(const BaseSettings& settings) {
  WeightPolicy policy = policy_of(settings);
  policy.planned = true;
  return std::make_shared<WeightStore>(settings.device, settings.dtype, policy);
}

std::int64_t missing_elements(const WeightStore& store) {
  std::int64_t count = 0;
  for (const std::string& name : store.missing()) count += element_count(store.member(name).shape).value_or(0);
  return count;
}

std::optional<double> measured_speed(at::Device device, at::ScalarType dtype) {
  if (device.is_cuda() && !at::hasCUDA()) return std::nullopt;
  using Clock = std::chrono::steady_clock;
  const std::int64_t size = device.is_cpu() ? 512 : 8192;  // a GPU shows its speed in large ones alone
  const at::Tensor a = at::zeros({size, size}, at::TensorOptions().device(device).dtype(dtype));
  const auto run = [&] { return at::matmul(a, a).sum().item<double>(); };
  run();
  const auto start = Clock::now();
  int count = 0;
  double seconds = 0.0;
  for (; seconds < 0.05; seconds = std::chrono::duration<double>(Clock::now() - start).count(), ++count) run();
  return 2.0 * std::pow(size, 3) * count / seconds;
}

std::string bytes_text(const Json& bytes) {
  std::string text;
  for (const auto& [kind, count] : bytes.items())
    text += fmt::format("  {:<12}{:.3f} GiB\n", kind, count.get<double>() / (1024.0 * 1024.0 * 1024.0));
  return text;
}

std::string time_text(const Json& seconds) {
  return fmt::format("time        {}\n", seconds.is_null()
                                             ? "unknown: this machine has no such device"
                                             : fmt::format("about {:.0f} s for the products", seconds.get<double>()));
}

}  // namespace qlora
