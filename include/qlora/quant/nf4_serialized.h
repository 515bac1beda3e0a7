// NF4 tensors as bitsandbytes stores them in a checkpoint: X.weight and its companions (X.weight.absmax, ...).
#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "qlora/core/host_tensor.h"
#include "qlora/quant/nf4.h"

namespace qlora {

struct NamedTensor {
  std::string name;
  ElementType type = ElementType::kU8;
  Shape shape;
  std::vector<std::byte> bytes;
};

// The keys and bytes that bitsandbytes writes for the weight `name`: codes [.., 1], absmax, quant_map [16], with nested
// scales also nested_absmax and nested_quant_map [256], and quant_state.bitsandbytes__nf4, a JSON text as bytes.
std::vector<NamedTensor> nf4_serialize(const std::string& name, const Nf4Tensor& tensor);

// Whether `key` is a companion of a 4-bit weight rather than a weight of its own.
bool nf4_is_companion(const std::string& key);

using FindTensor = std::function<std::optional<HostTensor>(const std::string&)>;

// The shape and type of the weight `name` that is stored in 4 bits, from its quant_state alone. Throws as nf4_parse.
struct Nf4Stored {
  Shape shape;
  ElementType dtype = ElementType::kBF16;  // of the weights it was made from
  bool nested = false;
};
Nf4Stored nf4_stored(const std::string& name, const FindTensor& find);

// Whether the weight `name` is stored in 4 bits.
bool nf4_is_serialized(const std::string& name, const FindTensor& find);

// Reads the weight `name` and its companions. Throws DataError naming the tensor where one is missing, has the wrong
// size or holds NaN, and for FP4, blocks other than 64 and 256, or another table of code values.
Nf4Tensor nf4_parse(const std::string& name, const FindTensor& find);

}  // namespace qlora
