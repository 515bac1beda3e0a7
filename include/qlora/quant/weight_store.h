// Owns the frozen weights of a model, in 4 bits or dense, and hands them out in the type that products want.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include <ATen/core/Tensor.h>

#include "qlora/core/host_tensor.h"
#include "qlora/quant/nf4_weight.h"

namespace qlora {

// What the store does with weights whose members ask to be quantized.
struct WeightPolicy {
  bool quantize = false;                    // false: everything is kept dense
  bool nested = true;                       // quantize the blocks' absmax, too
  std::int64_t dequantize_cache_bytes = 0;  // how much may stay dequantized; the numbers are the same either way
  std::vector<std::string> dense = {};      // not quantized even so: names of modules, their beginnings or their ends
  bool fp8 = false;                         // quantized weights are handed out in fp8 where their products can take it
  bool planned = false;  // shapes alone: nothing is put, and the device, which need not be there, is not touched
};

struct WeightMember {
  std::string name;  // as in the checkpoint
  Shape shape;       // [out, in], or [n] for a vector
  bool quantize;     // a linear of the model's body, under WeightPolicy::quantize
};

// A weight W [n, k] in fp8: W = scale[0] * codes, where the codes are e4m3(W * scale[1]), one scale for the whole.
struct Fp8Weight {
  at::Tensor codes;  // e4m3 [n, k], or transposed [k, n]
  at::Tensor scale;  // fp32 [2]
};

// Weights live in groups: what one product uses together (Q, K and V; gate and up), stacked along the first dimension.
// Each member is quantized by itself, with its own nested scales.
class WeightStore {
 public:
  using Group = int;

  WeightStore(at::Device device, at::ScalarType dtype, WeightPolicy policy);

  // The group of these members: the one there is where their names are known already.
  Group add(std::vector<WeightMember> members);

  bool has(const std::string& name) const { return places_.contains(name); }
  const WeightMember& member(const std::string& name) const;

  // Takes one member's values (any float type, any device); converts or quantizes them on the store's device, where
  // never more than this one tensor lies in its own type. What is dense already and of dtype() may be kept as it is:
  // nobody writes to it afterwards. Throws DataError naming the tensor for a wrong shape and for NaN or Inf.
  void put(const std::string& name, const at::Tensor& values);
  void put(const std::string& name, const Nf4Tensor& codes);
  void put(const std::string& name, Nf4Weight codes);  // of a quantized member, on the store's device; kept as they are

  // From now on a dense group of this one member lies in pinned host memory, where a GPU reads it (quant/pinned.h).
  void move_to_host(const std::string& name);

  std::vector<std::string> missing() const;  // members that no put() has filled

  // The group's weights [sum of out, in] in dtype(), decoded on torch's current stream. Valid until the next call for
  // another quantized group.
  at::Tensor materialize(Group group);

  // Whether materialize_fp8() serves the group: under WeightPolicy::fp8, where all of it is quantized and its sides are
  // multiples of 16, as tensor cores want them.
  bool in_fp8(Group group) const;
  // The same in fp8, as it is or transposed.
  Fp8Weight materialize_fp8(Group group, bool transposed);

  // out = x w^T + addend + bias straight from the group's codes, for so few rows of x [rows, in] that decoding them
  // costs more than the product. False, and nothing done: where that does not pay or has no kernel. `addend` [rows,
  // out] may be `out`, and like `bias` [out] undefined.
  bool multiply(Group group, const at::Tensor& x, const at::Tensor& addend, const at::Tensor& bias,
                const at::Tensor& out) const;

  // The next materialize() decodes anew: for who captures it, or has replayed what decoded another group.
  void forget_scratch() { in_scratch_ = {}; }

  // One member as it computes, on the CPU: dense in float32, or dequantized from its codes in float32.
  at::Tensor dequantized(const std::string& name) const;

  // The codes of a quantized member, copied to the host.
  Nf4Tensor codes(const std::string& name) const;

  at::ScalarType dtype() const { return dtype_; }
  at::Device device() const { return device_; }
  // Where a model over this store makes its own tensors: meta where it is planned alone.
  at::Device tensor_device() const { return policy_.planned ? at::Device(at::kMeta) : device_; }
  bool planned() const { return policy_.planned; }
  std::int64_t bytes() const;          // codes, scales and dense weights, on the device
  std::int64_t scratch_bytes() const;  // the buffer that dequantized groups pass through, and the cache
  // The same once every member is filled, and every group was used in the order of add().
  std::int64_t planned_bytes() const;
  std::int64_t planned_scratch_bytes() const;

 private:
  struct Slot {
    WeightMember member;
    Nf4Weight codes;
    at::Tensor dense;  // of a member that is not quantized among others that are
    bool filled = false;
    std::int64_t first_row = 0;
  };
  // What quantized weights are decoded to.
  enum Form { kDense, kFp8, kFp8Transposed };
  struct GroupState {
    std::vector<Slot> slots;
    Shape shape;  // of the stacked whole
    bool quantized = false;
    at::Tensor dense;  // where not quantized
    bool on_host = false;
    bool cached = false;              // what it is decoded to stays
    std::array<at::Tensor, 3> forms;  // of a cached one, by Form
    at::Tensor fp8_scale;             // fp32 [2], made when it is first asked for
  };
  struct Scratch {
    Group group = -1;
    Form form = kDense;
    bool operator==(const Scratch&) const = default;
  };
  Slot& slot(const std::string& name);
  const Slot& slot(const std::string& name) const;
  static void check_shape(const Slot& slot, const Shape& shape);
  bool quantizes(const WeightMember& member) const;
  bool in_fp8(const GroupState& group) const;
  std::int64_t dense_bytes(const Shape& shape) const;
  std::int64_t cached_bytes(const GroupState& group) const;   // in all forms that are used
  std::int64_t scratch_bytes(const GroupState& group) const;  // in one of them
  at::Tensor decoded(Group id, Form form);
  void decode_into(const GroupState& group, Form form, const at::Tensor& out) const;

  at::Device device_;
  at::ScalarType dtype_;
  WeightPolicy policy_;
  std::vector<GroupState> groups_;
  std::unordered_map<std::string, std::pair<Group, std::size_t>> places_;
  at::Tensor scratch_;  // uint8
  Scratch in_scratch_;
  std::int64_t cache_left_;
};

}  // namespace qlora
