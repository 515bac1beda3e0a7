// probe_nf4 quantize IN OUT:   for every tensor X of IN its NF4 parts, plain (X.plain.*) and doubly quantized
// (X.nested.*), as
//                              bitsandbytes names them, and what they decode to in each type (X.plain.F32, ...)
// probe_nf4 dequantize IN OUT: every 4-bit weight of IN decoded to its own type
#include <cstdio>
#include <iostream>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "qlora/core/error.h"
#include "qlora/formats/safetensors.h"
#include "qlora/quant/nf4_serialized.h"

namespace {

using namespace qlora;

std::vector<std::byte> decoded(const Nf4Tensor& tensor, ElementType type) {
  std::vector<std::byte> bytes(static_cast<std::size_t>(tensor.count()) * element_size(type));
  nf4_dequantize(tensor.view(), type, bytes.data());
  return bytes;
}

class Output {
 public:
  void add(NamedTensor tensor) { parts_.push_back(std::move(tensor)); }

  void write(const std::string& path) const {
    std::map<std::string, HostTensor> tensors;
    for (const NamedTensor& part : parts_) tensors[part.name] = {part.type, part.shape, part.bytes};
    write_safetensors(path, tensors);
  }

 private:
  std::vector<NamedTensor> parts_;
};

void quantize(const SafetensorsFile& in, Output& out) {
  for (const SafetensorsEntry& entry : in.entries()) {
    for (const bool nested : {false, true}) {
      const std::string name = entry.spec.name + (nested ? ".nested" : ".plain");
      Nf4Tensor tensor;
      try {
        tensor = nf4_quantize(in.tensor(entry), nested, name);
      } catch (const DataError& error) {
        std::cout << error.what() << "\n";
        continue;
      }
      for (NamedTensor& part : nf4_serialize(name, tensor)) out.add(std::move(part));
      for (const ElementType type : {ElementType::kF32, ElementType::kBF16, ElementType::kF16}) {
        out.add({name + "." + std::string(element_name(type)), type, tensor.shape, decoded(tensor, type)});
      }
    }
  }
}

void dequantize(const SafetensorsFile& in, Output& out) {
  const FindTensor find = [&](const std::string& name) {
    return in.contains(name) ? std::optional(in.tensor(name)) : std::nullopt;
  };
  for (const SafetensorsEntry& entry : in.entries()) {
    if (!nf4_is_serialized(entry.spec.name, find)) continue;
    const Nf4Tensor tensor = nf4_parse(entry.spec.name, find);
    out.add({entry.spec.name, tensor.dtype, tensor.shape, decoded(tensor, tensor.dtype)});
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  try {
    const SafetensorsFile in(argv[2]);
    Output out;
    std::string_view(argv[1]) == "quantize" ? quantize(in, out) : dequantize(in, out);
    out.write(argv[3]);
  } catch (const Error& error) {
    std::cerr << error.what() << "\n";
    return static_cast<int>(error.code());
  }
  return 0;
}
