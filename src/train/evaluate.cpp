#include "qlora/train/evaluate.h"

#include <algorithm>

#include "qlora/core/signal.h"
#include "qlora/nn/program_cache.h"
#include "qlora/train/device_batch.h"

namespace qlora {
namespace {

// Adds each target's loss to the row that holds it.
void add_losses(const PackedBatch& packed, const at::Tensor& losses, std::vector<RowLoss>& rows) {
  const at::Tensor host = losses.to(at::kCPU, at::kDouble);
  const auto* nll = host.const_data_ptr<double>();
  std::size_t s = 0;
  for (std::size_t m = 0; m < packed.targets.size(); ++m) {
    while (packed.targets[m] >= packed.bounds[s + 1]) ++s;
    RowLoss& row = rows[packed.set_rows[s]];
    row.nll += nll[m];
    ++row.tokens;
  }
}

// Whether all of these rows are known; their losses then are.
bool take_known(const std::vector<std::uint32_t>& numbers, const std::map<std::uint32_t, RowLoss>& known,
                std::vector<RowLoss>& rows) {
  if (!std::all_of(numbers.begin(), numbers.end(), [&](std::uint32_t row) { return known.contains(row); }))
    return false;
  for (const std::uint32_t row : numbers) rows[row] = known.at(row);
  return true;
}

}  // namespace

double SetLoss::mean() const {
  double nll = 0.0;
  std::int64_t tokens = 0;
  for (const RowLoss& row : rows) {
    nll += row.nll;
    tokens += row.tokens;
  }
  return tokens == 0 ? 0.0 : nll / static_cast<double>(tokens);
}

SetLoss evaluate_loss(Decoder& decoder, const PreparedSet& set, std::int64_t batch_size, const OnBatch& on_batch,
                      const at::Tensor& arena, const std::map<std::uint32_t, RowLoss>& known) {
  const auto& blocks = decoder.blocks(HeadKind::kNll);
  ProgramCache programs(blocks, Pass::kForward, uniform_keep(blocks, Keep::kAll), decoder.device(), arena);
  const Epoch batches = evaluation_batches(set, batch_size);
  SetLoss loss;
  loss.rows.resize(set.size());
  for (std::int64_t i = 0; i < batches.steps(); ++i) {
    throw_if_stopped();
    const PackedBatch packed = batches.step(i).batch(set, 0);
    if (take_known(packed.set_rows, known, loss.rows)) continue;
    const Batch batch = to_device_batch(packed, 1, 0, /*training=*/false, decoder.device());
    Program& program = programs.program_for(batch);
    program.run(batch);
    add_losses(packed, program.output(), loss.rows);
    if (on_batch) on_batch(packed.set_rows, loss);
  }
  loss.more_bytes = programs.arena().is_same(arena) ? 0 : programs.arena_bytes();
  return loss;
}

}  // namespace qlora
