// The end of a decoder: final norm and output head, over the labelled rows alone. All logits of a batch never exist.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>

#include "qlora/nn/lora.h"
#include "qlora/nn/rms_norm.h"

namespace qlora {

// What some models do to the product: logits = softcap * tanh(z / softcap) with z = scale * product; 0: no soft cap.
struct LogitTransform {
  double scale = 1.0;
  double softcap = 0.0;

  bool changes() const { return scale != 1.0 || softcap != 0.0; }
  void apply(const at::Tensor& logits) const;
  // d logits / d product, from the logits: of a shape that broadcasts to theirs.
  at::Tensor slope(const at::Tensor& logits) const;
};

// What the three heads below share: the last hidden state's labelled rows, normalized, times the head in chunks of
// rows; with an adapter on it.
class Head {
 public:
  struct Spec {
    Weight weight;  // [vocabulary, columns]
    std::int64_t vocabulary = 0;
    LogitTransform transform = {};
    std::optional<LoraSegment> adapter = {};  // without a magnitude
  };
  Head(RmsNorm norm, Spec spec, ParameterSet& parameters, Dtype dtype);

  std::int64_t columns() const { return norm_.columns(); }
  std::int64_t vocabulary() const { return spec_.vocabulary; }
  Dtype dtype() const { return dtype_; }
  std::int64_t chunk_rows(const BatchShape& shape) const;

  // The buffers of rows and norm, first in every head's plan.
  std::vector<BufferSpec> row_buffers(const BatchShape& shape, Life life) const;
  enum RowBuffer { kRows, kNormed, kInverse, kWide, kLowRank, kDropped, kRowBufferCount };
  // The batch's labelled tokens, normed [M, columns], and what the adapter's A makes of them [M, rank].
  struct Rows {
    at::Tensor normed, low_rank;
  };
  Rows gather(const Batch& batch, const OperationViews& views) const;
  // Logits of some rows in the accumulation type: [rows, vocabulary], in `out`.
  void logits(const Rows& rows, const at::Tensor& out) const;

  // Some rows with their targets [rows, 1] and logits [rows, vocabulary], which the body may overwrite.
  struct Chunk {
    std::int64_t begin, size;
    Rows rows;
    at::Tensor targets, logits;
  };
  // Gathers the batch's labelled rows and calls body(chunk) for as many at a time as `buffer` has rows.
  template <class Body>
  void for_each_chunk(const Batch& batch, const OperationViews& views, const at::Tensor& buffer,
                      const Body& body) const {
    const std::int64_t count = batch.labelled.size(0);
    if (count == 0) return;
    const Rows rows = gather(batch, views);
    for (std::int64_t begin = 0; begin < count; begin += buffer.size(0)) {
      const std::int64_t size = std::min(buffer.size(0), count - begin);
      const Chunk chunk{begin,
                        size,
                        {rows.normed.narrow(0, begin, size), rows.low_rank.narrow(0, begin, size)},
                        batch.targets.narrow(0, begin, size).unsqueeze(1),
                        buffer.narrow(0, 0, size)};
      logits(chunk.rows, chunk.logits);
      body(chunk);
    }
  }

  // Backward of the product, into d_normed: of a chunk, whose columns' gradients are added; then of the adapter's A,
  // over all rows. d_low_rank [M, rank].
  void differentiate(const Chunk& chunk, const at::Tensor& d_logits, const at::Tensor& d_normed,
                     const at::Tensor& d_low_rank) const;
  void differentiate_low_rank(const Batch& batch, const OperationViews& views, const at::Tensor& d_normed,
                              const at::Tensor& d_low_rank) const;

  const LogitTransform& transform() const { return spec_.transform; }
  const RmsNorm& norm() const { return norm_; }
  std::int64_t rank() const { return spec_.adapter ? spec_.adapter->rank : 0; }

 private:
  bool drops(const Batch& batch) const { return batch.training && spec_.adapter->dropout > 0.0; }

  RmsNorm norm_;
  Spec spec_;
  ParameterSet& parameters_;
  Dtype dtype_;
};

// Training: out [1] = loss_scale * sum over labelled tokens of -log softmax(logits)[target]. Its forward pass also
// makes the gradient of the hidden state, chunk by chunk, so that backward only scatters it.
class LossHead : public Operation {
 public:
  explicit LossHead(std::shared_ptr<const Head> head) : head_(std::move(head)) {}
  std::string_view name() const override { return "loss_head"; }
  OperationPlan plan(const BatchShape& shape) const override;
  OperationTraits traits() const override;
  bool trainable() const override { return true; }  // the root of all gradients
  void forward(const Batch& batch, const OperationViews& views) override;
  void backward(const Batch& batch, const OperationViews& views) override;

 private:
  at::Tensor differentiate(const Batch& batch, const OperationViews& views, const Head::Chunk& chunk) const;

  std::shared_ptr<const Head> head_;
};

// Evaluation: out [M] = -log softmax(logits)[target] of each labelled token.
class NllHead : public Operation {
 public:
  explicit NllHead(std::shared_ptr<const Head> head) : head_(std::move(head)) {}
  std::string_view name() const override { return "nll_head"; }
  OperationPlan plan(const BatchShape& shape) const override;
  OperationTraits traits() const override;
  void forward(const Batch& batch, const OperationViews& views) override;
  void backward(const Batch&, const OperationViews&) override {}

 private:
  std::shared_ptr<const Head> head_;
};

// Generation: out [M, vocabulary] = logits of the labelled tokens, in the accumulation type.
class LogitsHead : public Operation {
 public:
  explicit LogitsHead(std::shared_ptr<const Head> head) : head_(std::move(head)) {}
  std::string_view name() const override { return "logits_head"; }
  OperationPlan plan(const BatchShape& shape) const override;
  OperationTraits traits() const override;
  void forward(const Batch& batch, const OperationViews& views) override;
  void backward(const Batch&, const OperationViews&) override {}

 private:
  std::shared_ptr<const Head> head_;
};

}  // namespace qlora
