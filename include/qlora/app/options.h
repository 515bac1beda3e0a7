// What each command takes: the options of the rooms it uses, put together.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "qlora/adapters/options.h"
#include "qlora/core/log.h"
#include "qlora/core/schema_fwd.h"
#include "qlora/data/options.h"
#include "qlora/eval/options.h"
#include "qlora/generate/options.h"
#include "qlora/train/options.h"
#include "qlora/weights/options.h"

namespace qlora {

// Every command has these.
struct CommonOptions {
  std::string output_dir;
  std::string device = "auto";  // auto | cpu | cuda | cuda:N
  int64_t seed = 42;
  LogLevel log_level = LogLevel::kInfo;
  bool quiet = false;    // only warnings and errors, no progress
  bool json = false;     // the result as one JSON object, alone on stdout
  bool dry_run = false;  // check all that can be checked without the weights, and print the plan

  // No key, but the names of those that were set, be it to their defaults. What is left open an adapter decides.
  std::set<std::string> given;
};

// An adapter of a merge, PATH or PATH=WEIGHT.
struct WeightedAdapter {
  std::string path;
  double weight = 1.0;
};

enum class MergeFormat { kHf, kGguf, kGgufLora };
enum class MergeBase { kOriginal, kDequantized };
enum class MergeDtype { kAuto, kBfloat16, kFloat16, kFloat32 };  // kAuto: the base's own
enum class MergeQuantize { kNone, kQ8_0, kQ4KM, kNf4 };

struct MergeOptions {
  std::vector<WeightedAdapter> adapter;
  MergeFormat format = MergeFormat::kHf;
  MergeDtype dtype = MergeDtype::kAuto;
  MergeBase merge_into = MergeBase::kOriginal;
  MergeQuantize quantize = MergeQuantize::kNone;
};

struct PrepareJob {
  CommonOptions common;
  ModelOptions model;              // model_name_or_path and model_revision alone are keys of prepare
  DataOptions data;                // all but prepared_dir
  std::optional<int64_t> preview;  // show so many rows, write nothing
};

struct TrainJob {
  CommonOptions common;
  ModelOptions model;
  DataOptions data;
  AdapterOptions adapter;
  TrainOptions train;
  GenerateOptions generate;  // of eval_tasks; all but batch_size
  EvalOptions eval;          // of eval_tasks: how answers are scored
};

struct EvalJob {
  CommonOptions common;
  ModelOptions model;  // all but method
  DataOptions data;    // without the keys of training data: dataset, val_size, prepared_dir, shuffle, packing
  GenerateOptions generate;
  EvalOptions eval;
};

struct MergeJob {
  CommonOptions common;
  ModelOptions model;  // model_name_or_path, model_revision and the settings of quantization
  MergeOptions merge;
};

struct ChatJob {
  CommonOptions common;
  ModelOptions model;        // all but method
  DataOptions data;          // chat_template, chat_template_kwargs, system_prompt
  GenerateOptions generate;  // all but batch_size
  std::vector<std::string> adapter;
};

void declare(Schema<CommonOptions>& schema);
void declare(Schema<MergeOptions>& schema);
void declare(Schema<PrepareJob>& schema);
void declare(Schema<TrainJob>& schema);
void declare(Schema<EvalJob>& schema);
void declare(Schema<MergeJob>& schema);
void declare(Schema<ChatJob>& schema);

}  // namespace qlora
