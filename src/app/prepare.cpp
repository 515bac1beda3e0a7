// The use case `qlora prepare`: rows become a prepared set, or a preview of it.
#include "qlora/data/prepare.h"

#include <algorithm>
#include <cstdio>
#include <filesystem>

#include <spdlog/fmt/fmt.h>

#include "qlora/app/base_model.h"
#include "qlora/app/commands.h"
#include "qlora/app/prepare_pages.h"
#include "qlora/core/atomic_file.h"
#include "qlora/core/error.h"
#include "qlora/core/log.h"
#include "qlora/core/signal.h"
#include "qlora/formats/mapped_file.h"

namespace qlora {
namespace fs = std::filesystem;
namespace {

constexpr const char* kFiles[] = {"train.bin", "eval.bin", "report.html", "manifest.json"};

bool holds_other_files(const fs::path& folder) {
  if (!fs::is_directory(folder)) return false;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (std::find(std::begin(kFiles), std::end(kFiles), name) == std::end(kFiles)) return true;
  }
  return false;
}

// The folder is replaced as a whole. One that is shared with other results gets its files one by one, the manifest
// last: a set and a manifest of different runs are found out when they are opened.
void publish(const PreparedData& data, const fs::path& output_dir) {
  const bool shared = holds_other_files(output_dir);
  AtomicFolder folder(shared ? output_dir / "prepared" : output_dir);
  write_file(folder.temporary() / "report.html", prepare_report(data));
  write_prepared(data, folder.temporary());
  if (!shared) return folder.commit();
  for (const char* name : kFiles) {
    if (!fs::exists(folder.temporary() / name)) fs::remove(output_dir / name);
  }
  folder.move_out("manifest.json");
}

void print_result(const PreparedData& data, const CommonOptions& common, bool written) {
  const RowCounts& counts = data.train.counts;
  if (common.json) {
    Json result = data.manifest();
    if (written) result["output_dir"] = common.output_dir;
    std::printf("%s\n", result.dump().c_str());
    return;
  }
  std::printf("rows        %ld of %ld\n", counts.rows_kept, counts.rows_in);
  for (const auto& [reason, count] : counts.dropped) std::printf("  dropped   %ld %s\n", count, reason.c_str());
  std::printf("  truncated %ld, duplicates %ld\n", counts.truncated, counts.duplicates);
  if (data.eval) {
    std::printf("eval rows   %ld of %ld, of which %ld are also training rows\n", data.eval->counts.rows_kept,
                data.eval->counts.rows_in, data.leaked);
  }
  std::printf("tokens      %ld, with loss %ld\n", counts.tokens, counts.label_tokens);
  std::printf("length      p50 %ld, p95 %ld, max %ld\n", counts.percentile(0.5), counts.percentile(0.95),
              counts.percentile(1));
  std::printf("fingerprint %s\n", data.fingerprint().c_str());
  if (written) std::printf("written to  %s\n", common.output_dir.c_str());
}

}  // namespace

int run_prepare(const PrepareJob& job) {
  watch_signals();
  require_folder(job.common.output_dir);
  const auto seed = static_cast<std::uint64_t>(job.common.seed);
  const fs::path model = model_folder_of(job.model);
  DataOptions options = job.data;
  if (job.preview) {  // the files' own order, nothing set aside
    options.val_size = 0;
    options.eval_dataset.clear();
  }
  const DataSources sources = open_data(options, seed);
  std::vector<const Dataset*> datasets = {&sources.train};
  if (sources.eval) datasets.push_back(&*sources.eval);
  const RowEncoder encoder(model, options, datasets);
  const ModelLimits limits = read_model_limits(model);
  if (!limits.vocabulary) {
    log_warning("{}: has no config.json with a vocab_size: ids are not checked against the model's vocabulary",
                model.string());
  }
  if (job.preview) {
    show_preview(sources, encoder, resolve_limits(options, limits), *job.preview, job.common.json);
    return 0;
  }
  const PreparedData data = prepare_data(sources, encoder, limits, seed);
  for (const auto& warning : data.warnings) log_warning("{}", warning);
  if (!job.common.dry_run) publish(data, job.common.output_dir);
  print_result(data, job.common, !job.common.dry_run);
  return 0;
}

}  // namespace qlora
