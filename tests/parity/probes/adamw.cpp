// probe_adamw DEVICE BITS IN OUT: from the tensors value.NAME (F32) of IN, one step of AdamW with each of
// gradient.T.NAME for T = 1, 2, ...; rate 1e-3, weight decay 0.01, nothing clipped. OUT: value.T.NAME after each step,
// and the moments.
#include <iostream>
#include <map>
#include <string>

#include <fmt/format.h>

#include "qlora/core/error.h"
#include "qlora/formats/safetensors.h"
#include "qlora/quant/tensor_bytes.h"
#include "qlora/train/optimizer.h"

namespace {

using namespace qlora;

using Tensors = std::map<std::string, at::Tensor>;

void copy_into(const at::Tensor& flat, const SafetensorsFile& in, const std::string& prefix, const ParameterSet& set) {
  for (const ParameterInfo& info : set.infos()) {
    const std::string name = prefix + info.name;
    flat.narrow(0, info.offset, info.size()).copy_(to_tensor(in.tensor(name), name).view(-1));
  }
}

Tensors train(at::Device device, bool eight_bit, const SafetensorsFile& in) {
  const std::string value = "value.";
  ParameterSet set;
  for (const SafetensorsEntry& entry : in.entries()) {
    const std::string& name = entry.spec.name;
    if (name.starts_with(value)) set.add(name.substr(value.size()), entry.spec.shape, true);
  }
  set.allocate(device, at::kFloat);
  copy_into(set.values(), in, value, set);
  AdamWSettings settings;
  settings.weight_decay = 0.01;
  settings.eight_bit = eight_bit;
  AdamW optimizer(set, settings);
  Tensors out;
  for (int t = 1; in.contains(fmt::format("gradient.{}.{}", t, set.infos().front().name)); ++t) {
    copy_into(set.grads(), in, fmt::format("gradient.{}.", t), set);
    optimizer.step(1e-3);
    for (const ParameterInfo& info : set.infos()) {
      out.emplace(fmt::format("value.{}.{}", t, info.name),
                  set.value(*set.find(info.name)).to(at::kCPU, at::kFloat, false, /*copy=*/true));
    }
  }
  for (const auto& [name, moments] : optimizer.state()) out.emplace(name, moments.cpu());
  return out;
}

void write(const std::string& path, const Tensors& tensors) {
  std::map<std::string, HostTensor> views;
  for (const auto& [name, tensor] : tensors) {
    const auto type = tensor.scalar_type() == at::kByte ? ElementType::kU8 : ElementType::kF32;
    views[name] = {
        type, tensor.sizes().vec(), {static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()}};
  }
  write_safetensors(path, views);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) return 2;
  try {
    write(argv[4], train(at::Device(argv[1]), std::string(argv[2]) == "8", SafetensorsFile(argv[3])));
  } catch (const Error& error) {
    std::cerr << error.what() << "\n";
    return static_cast<int>(error.code());
  }
  return 0;
}
