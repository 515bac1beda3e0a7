// The end of a decoder: final norm and output head, over the labelled rows alone. All logits of a batch never exist.
#pragma once

#include <algorithm>
#include <memory>

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
// rows.
class Head {
 public:
  Head(RmsNorm norm, Weight weight, std::int64_t vocabulary, Dtype dtype, LogitTransform transform = {});

  std::int64_t columns() const { return norm_.columns(); }
  std::int64_t vocabulary() const { return vocabulary_; }
  Dtype dtype() const { return dtype_; }
  bool trainable() const { return norm_.trainable() || weight_.trainable(); }
  std::int64_t chunk_rows(const BatchShape& shape) const;

  // The buffers of rows and norm, first in every head's plan.
  std::vector<BufferSpec> row_buffers(const BatchShape& shape, Life life) const;
  enum RowBuffer { kRows, kNormed, kInverse, kWide, kRowBufferCount };
  // Fills kRows and kNormed for the batch's labelled tokens; returns the normed rows [M, columns].
  at::Tensor gather(const Batch& batch, const OperationViews& views) const;
  // Logits of some normed rows in the accumulation type: [rows, vocabulary], in `out`.
  void logits(const at::Tensor& normed, const at::Tensor& out) const;

  // Some rows with their targets [rows, 1] and logits [rows, vocabulary], which the body may overwrite.
  struct Chunk {
    std::int64_t begin, size;
    at::Tensor normed, targets, logits;
  };
  // Gathers the batch's labelled rows and calls body(chunk) for as many at a time as `buffer` has rows.
  template <class Body>
  void for_each_chunk(const Batch& batch, const OperationViews& views, const at::Tensor& buffer,
                      const Body& body) const {
    const std::int64_t count = batch.labelled.size(0);
    if (count == 0) return;
    const at::Tensor normed = gather(batch, views);
    for (std::int64_t begin = 0; begin < count; begin += buffer.size(0)) {
      const std::int64_t size = std::min(buffer.size(0), count - begin);
      const Chunk chunk{begin, size, normed.narrow(0, begin, size), batch.targets.narrow(0, begin, size).unsqueeze(1),
                        buffer.narrow(0, 0, size)};
      logits(chunk.normed, chunk.logits);
      body(chunk);
    }
  }

  const LogitTransform& transform() const { return transform_; }
  const RmsNorm& norm() const { return norm_; }
  const Weight& weight() const { return weight_; }  // [vocabulary, columns]

 private:
  RmsNorm norm_;
  Weight weight_;
  std::int64_t vocabulary_;
  Dtype dtype_;
  LogitTransform transform_;
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
