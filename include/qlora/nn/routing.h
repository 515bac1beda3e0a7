// A router's choice: which experts each token goes through, how much each of them counts, and the loss that keeps their
// loads alike.
#pragma once

#include <memory>

#include "qlora/nn/operation.h"

namespace qlora {

// The load-balancing loss (Fedus et al. 2022, eq. 4 to 6) over all layers together, as transformers has it:
// weight * experts * sum over experts of c P / n^2, with c the tokens that go to an expert in all layers, P the sum of
// its probabilities, n = layers * tokens. Of a step's batches each counts by its share of the targets.
class RouterBalance {
 public:
  // What the routers of `layers` layers note, in `dtype`.
  RouterBalance(std::int64_t layers, std::int64_t experts, double weight, at::Device device, Dtype dtype);

  // Of one layer: both [tokens, experts], without the tail. What it noted before is forgotten.
  void note(std::int64_t layer, const at::Tensor& chosen, const at::Tensor& probabilities);

  at::Tensor loss(const Batch& batch) const;   // []
  at::Tensor slope(const Batch& batch) const;  // [experts]: d loss / d probability, of any token in any layer

 private:
  at::Tensor factor(const Batch& batch) const;

  double weight_;
  at::Tensor counts_, probabilities_;  // [layers, experts]
};

// in [tokens, experts] = the router's logits; out [tokens, experts] in the accumulation type = the probabilities of
// each token's largest ones, divided by their sum where `normalized`; 0 for all other experts, and for all in the tail.
class Routing : public Operation {
 public:
  struct Spec {
    std::int64_t experts = 0;
    std::int64_t per_token = 0;
    bool normalized = false;
    std::shared_ptr<RouterBalance> balance;  // or none
    std::int64_t layer = 0;                  // in `balance`
  };
  Routing(Spec spec, Dtype dtype) : spec_(std::move(spec)), dtype_(dtype) {}

  std::string_view name() const override { return "routing"; }
  OperationPlan plan(const BatchShape& shape) const override;
  OperationTraits traits() const override;
  void forward(const Batch& batch, const OperationViews& views) override;
  void backward(const Batch& batch, const OperationViews& views) override;

 private:
  Spec spec_;
  Dtype dtype_;
};

// Adds the load-balancing loss to a training loss [1]. Its gradient enters where the routers' backward passes run.
class RouterLoss : public Operation {
 public:
  RouterLoss(std::shared_ptr<const RouterBalance> balance, Dtype dtype) : balance_(std::move(balance)), dtype_(dtype) {}

  std::string_view name() const override { return "router_loss"; }
  OperationPlan plan(const BatchShape& shape) const override;
  OperationTraits traits() const override;
  void forward(const Batch& batch, const OperationViews& views) override;
  void backward(const Batch&, const OperationViews&) override {}

 private:
  std::shared_ptr<const RouterBalance> balance_;
  Dtype dtype_;
};

}  // namespace qlora
