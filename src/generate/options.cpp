// The declarations of generation's keys.
#include "qlora/generate/options.h"

#include "qlora/core/schema.h"

namespace qlora {

void declare(Schema<GenerateOptions>& schema) {
  using G = GenerateOptions;
  schema.key("max_new_tokens", &G::max_new_tokens, "Tokens of an answer at most.").at_least(1);
  schema.key("temperature", &G::temperature, "0: always the most likely token; above: sampled.").at_least(0);
  schema.key("top_p", &G::top_p, "Sample from the most likely tokens that together have this probability.")
      .above(0)
      .at_most(1);
  schema.key("top_k", &G::top_k, "Sample from so many most likely tokens; 0: from all.").at_least(0);
  schema.key("min_p", &G::min_p, "Sample only what has this share of the likeliest token's probability.")
      .at_least(0)
      .at_most(1);
  schema.key("repetition_penalty", &G::repetition_penalty, "Above 1: tokens that were there become less likely.")
      .above(0);
  schema.key("stop", &G::stop, "An answer ends before the first of these texts. May be given several times.")
      .no_commas();
  schema.key("batch_size", &G::batch_size, "Answers generated at a time. Unset: what fits.").at_least(1);
}

}  // namespace qlora
