// probe_decoder: one command as JSON on stdin, {"task": ..., "model": FOLDER, "adapter": FOLDER?, "quantize": bool?}:
//   logits     rows [[id]], out FILE.safetensors: row.N [length, vocabulary]; all rows are one packed batch
//   generate   prompts [[id]], options {...}, stop_ids, seed: prints the answers [[id]], made with the cache
//   recompute  the same, greedy, the whole row again for each token
//   gradients  rows [[ids, labels]], out FILE.safetensors: the gradient of each parameter, loss the mean over labels;
//              accumulation: in so many micro-batches; keep: all | expensive | input
//              device, dtype: as the config's keys (cpu, float32)
//   sample     logits [[number]], options, seen [id], seed, draws: prints how often each token was drawn for each row
#include <iostream>
#include <map>
#include <numeric>

#include <ATen/ops/tensor.h>

#include "qlora/app/base_model.h"
#include "qlora/core/error.h"
#include "qlora/formats/safetensors.h"
#include "qlora/generate/generator.h"
#include "qlora/generate/sampler.h"
#include "qlora/nn/program_cache.h"
#include "qlora/train/device_batch.h"
#include "qlora/weights/load.h"

namespace {

using namespace qlora;
using Ids = std::vector<std::int32_t>;

class Tensors {
 public:
  void add(const std::string& name, const at::Tensor& tensor) {
    kept_.push_back(tensor.to(at::kCPU, at::kFloat).contiguous());
    views_[name] = to_host_tensor(kept_.back());
  }
  void write(const std::string& path) const { write_safetensors(path, views_); }

 private:
  std::vector<at::Tensor> kept_;
  std::map<std::string, HostTensor> views_;
};

struct Model {
  std::unique_ptr<BaseModel> base;
  std::unique_ptr<Decoder> decoder;
};

Model open_model(const Json& command) {
  BaseSettings settings;
  settings.quantize = command.value("quantize", false);
  settings.device = choose_device(command.value("device", "cpu"));
  settings.dtype = command.value("dtype", "float32") == "bfloat16" ? at::kBFloat16 : at::kFloat;
  keep_stored_nf4(read_model_config(command.at("model").get<std::string>()), {}, settings);
  Model model{std::make_unique<BaseModel>(command.at("model").get<std::string>(), settings), nullptr};
  model.decoder =
      command.contains("adapter")
          ? model.base->decoder(load_lora_adapter(command.at("adapter").get<std::string>(), model.base->config()), 0)
          : model.base->decoder(TrainingPlan{});
  return model;
}

struct LabelledRow {
  Ids ids, labels;
};

PackedBatch pack(const std::vector<LabelledRow>& rows) {
  PackedBatch batch;
  batch.bounds = {0};
  for (const LabelledRow& row : rows) {
    const auto start = static_cast<std::int32_t>(batch.ids.size());
    for (std::size_t i = 0; i < row.ids.size(); ++i) {
      batch.ids.push_back(row.ids[i]);
      batch.positions.push_back(static_cast<std::int32_t>(i));
      if (i == 0 || row.labels[i] < 0) continue;
      batch.targets.push_back(start + static_cast<std::int32_t>(i) - 1);
      batch.target_ids.push_back(row.labels[i]);
    }
    batch.bounds.push_back(static_cast<std::int32_t>(batch.ids.size()));
    batch.rows.push_back(static_cast<std::int32_t>(batch.rows.size()));
  }
  return batch;
}

at::Tensor all_logits(Decoder& decoder, const std::vector<Ids>& rows) {
  std::vector<LabelledRow> unlabelled;
  for (const Ids& ids : rows) unlabelled.push_back({ids, Ids(ids.size(), -100)});
  Batch batch = to_device_batch(pack(unlabelled), 1, 0, /*training=*/false, at::kCPU);
  std::vector<std::int64_t> everywhere(static_cast<std::size_t>(batch.real_tokens()));
  std::iota(everywhere.begin(), everywhere.end(), std::int64_t{0});
  batch.labelled = at::tensor(everywhere, at::kLong);
  const auto& blocks = decoder.blocks(HeadKind::kLogits);
  ProgramCache cache(blocks, Pass::kForward, uniform_keep(blocks, Keep::kAll), at::kCPU);
  Program& program = cache.program_for(batch);
  program.run(batch);
  return program.output().narrow(0, 0, batch.real_tokens()).clone();
}

void logits(const Json& command) {
  const Model model = open_model(command);
  const auto rows = command.at("rows").get<std::vector<Ids>>();
  const at::Tensor all = all_logits(*model.decoder, rows);
  Tensors out;
  std::int64_t begin = 0;
  for (std::size_t r = 0; r < rows.size(); ++r) {
    const auto length = static_cast<std::int64_t>(rows[r].size());
    out.add("row." + std::to_string(r), all.narrow(0, begin, length));
    begin += length;
  }
  out.write(command.at("out").get<std::string>());
}

GenerateOptions read_options(const Json& command) {
  const Json json = command.value("options", Json::object());
  GenerateOptions options;
  options.max_new_tokens = json.value("max_new_tokens", options.max_new_tokens);
  options.temperature = json.value("temperature", options.temperature);
  options.top_p = json.value("top_p", options.top_p);
  options.top_k = json.value("top_k", options.top_k);
  options.min_p = json.value("min_p", options.min_p);
  options.repetition_penalty = json.value("repetition_penalty", options.repetition_penalty);
  if (json.contains("batch_size")) options.batch_size = json.at("batch_size").get<std::int64_t>();
  return options;
}

void generate(const Json& command) {
  const Model model = open_model(command);
  Generator::Settings settings;
  settings.options = read_options(command);
  settings.stop_ids = command.value("stop_ids", Ids{});
  settings.seed = command.value("seed", std::uint64_t{0});
  Json answers = Json::array();
  for (const Answer& answer :
       Generator(*model.decoder, settings).generate(command.at("prompts").get<std::vector<Ids>>()))
    answers.push_back(answer.ids);
  std::cout << answers.dump() << "\n";
}

void recompute(const Json& command) {
  const Model model = open_model(command);
  const Ids stop_ids = command.value("stop_ids", Ids{});
  const std::int64_t most = read_options(command).max_new_tokens;
  Json answers = Json::array();
  for (Ids row : command.at("prompts").get<std::vector<Ids>>()) {
    Ids answer;
    while (static_cast<std::int64_t>(answer.size()) < most) {
      const at::Tensor last = all_logits(*model.decoder, {row}).select(0, -1).squeeze();
      const auto next = static_cast<std::int32_t>(last.argmax().item<std::int64_t>());
      if (std::find(stop_ids.begin(), stop_ids.end(), next) != stop_ids.end()) break;
      answer.push_back(next);
      row.push_back(next);
    }
    answers.push_back(answer);
  }
  std::cout << answers.dump() << "\n";
}

Keep read_keep(const std::string& name) {
  if (name == "all") return Keep::kAll;
  return name == "expensive" ? Keep::kExpensive : Keep::kInputOnly;
}

void gradients(const Json& command) {
  const Model model = open_model(command);
  std::vector<LabelledRow> rows;
  for (const Json& row : command.at("rows")) rows.push_back({row.at(0).get<Ids>(), row.at(1).get<Ids>()});
  const auto targets = static_cast<std::int64_t>(pack(rows).targets.size());
  const auto& blocks = model.decoder->blocks(HeadKind::kLoss);
  const Keep keep = read_keep(command.value("keep", "all"));
  ProgramCache cache(blocks, Pass::kTraining, uniform_keep(blocks, keep), model.decoder->device());
  const std::size_t parts = command.value("accumulation", std::size_t{1});
  for (std::size_t m = 0; m < parts; ++m) {
    const auto at = [&](std::size_t part) {
      return rows.begin() + static_cast<std::ptrdiff_t>(part * rows.size() / parts);
    };
    const Batch batch =
        to_device_batch(pack({at(m), at(m + 1)}), targets, 0, /*training=*/true, model.decoder->device());
    cache.program_for(batch).run(batch);
  }
  Tensors out;
  ParameterSet& parameters = model.decoder->parameters();
  for (const ParameterInfo& info : parameters.infos()) out.add(info.name, parameters.grad(*parameters.find(info.name)));
  out.write(command.at("out").get<std::string>());
}

void sample(const Json& command) {
  const Sampler sampler(read_options(command), command.value("seed", std::uint64_t{0}));
  const Ids seen = command.value("seen", Ids{});
  const auto draws = command.at("draws").get<std::uint64_t>();
  Json counts = Json::array();
  std::uint64_t number = 0;
  for (const Json& row : command.at("logits")) {
    const auto values = row.get<std::vector<float>>();
    std::vector<std::int64_t> drawn(values.size());
    for (std::uint64_t i = 0; i < draws; ++i) {
      std::vector<float> copy = values;
      ++drawn[static_cast<std::size_t>(sampler.next(copy, seen, number, i))];
    }
    counts.push_back(drawn);
    ++number;
  }
  std::cout << counts.dump() << "\n";
}

}  // namespace

int main() {
  try {
    const std::string text{std::istreambuf_iterator<char>(std::cin), {}};
    const Json command = parse_json(text, "stdin");
    static const std::map<std::string, void (*)(const Json&)> kTasks{{"logits", logits},
                                                                     {"generate", generate},
                                                                     {"recompute", recompute},
                                                                     {"gradients", gradients},
                                                                     {"sample", sample}};
    kTasks.at(command.at("task").get<std::string>())(command);
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
  return 0;
}
