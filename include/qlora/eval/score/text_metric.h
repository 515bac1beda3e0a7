// Scores that compare a generated text with the text that was wanted.
//
// A metric is one file src/eval/score/NAME.cpp, a line below and a line in the table of text_metric.cpp.
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "qlora/eval/results.h"

namespace qlora {

// A row gives counts, and scores follow from counts: one row's, or their sums over rows.
struct TextMetric {
  std::string_view name;
  double best = 1.0;  // what a perfect row scores: 100 where the score's origin counts in points
  std::vector<double> (*counts)(std::string_view prediction, std::string_view gold) = nullptr;
  double (*row)(std::span<const double> counts) = nullptr;
  CorpusScore corpus = nullptr;  // of summed counts; nullptr: the mean of the rows' scores
};

// The texts are equal but for white space at both ends.
TextMetric exact_string_metric();

// BLEU of 1- to 4-grams (Papineni et al. 2002) as sacrebleu computes it by default: tokenizer 13a, case counts,
// brevity penalty, smoothing `exp` of orders without a match (1/2, 1/4, ...); 0 where an order has no n-gram at all. A
// row's score leaves such orders out, as sentence_bleu does. In [0, 100].
TextMetric bleu_metric();

// chrF2 (Popovic 2015) as sacrebleu computes it by default: precision and recall of 1- to 6-grams of characters, white
// space removed, averaged over the orders that both sides have; F with beta 2. In [0, 100].
TextMetric chrf_metric();

// ROUGE-N and ROUGE-L (Lin 2004) as the package rouge-score computes them without stemming: lower-cased runs of a-z and
// 0-9 are the words; F1 of n-grams in common, of the longest common subsequence. In [0, 1].
TextMetric rouge1_metric();
TextMetric rouge2_metric();
TextMetric rouge_l_metric();

// In the order of reports.
const std::vector<TextMetric>& text_metrics();

}  // namespace qlora
