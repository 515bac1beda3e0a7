// A weight as an operation sees it: frozen in the WeightStore, or a parameter that is trained.
#pragma once

#include "qlora/nn/parameters.h"
#include "qlora/quant/weight_store.h"

namespace qlora {

class Weight {
 public:
  Weight() = default;
  static Weight frozen(WeightStore& store, WeightStore::Group group);
  // Parameters first..last, stacked along their first dimension.
  static Weight trained(ParameterSet& parameters, ParameterSet::Id first, ParameterSet::Id last);

  explicit operator bool() const { return store_ != nullptr || parameters_ != nullptr; }
  bool trainable() const { return parameters_ != nullptr; }

  at::Tensor get() const;                // in the compute type; valid until another Weight is asked
  bool in_fp8() const;                   // whether fp8() serves
  Fp8Weight fp8(bool transposed) const;  // likewise valid
  at::Tensor grad() const;               // of a trainable one
  // out = x w^T + addend + bias without get(), where WeightStore::multiply() serves.
  bool multiply(const at::Tensor& x, const at::Tensor& addend, const at::Tensor& bias, const at::Tensor& out) const;

 private:
  WeightStore* store_ = nullptr;
  WeightStore::Group group_ = -1;
  ParameterSet* parameters_ = nullptr;
  ParameterSet::Id first_ = -1, last_ = -1;
};

}  // namespace qlora
