// What `qlora prepare` shows: the preview of rows with their mask, and the report as one HTML page.
#pragma once

#include <cstdint>
#include <string>

#include "qlora/core/json.h"
#include "qlora/data/prepare.h"

namespace qlora {

// {"id", "text", "prompt", "input_ids", "labels"}; labels are -100 where no loss is taken.
Json preview_json(const Example& example, const Rendered& rendered, const EncodedRow& row);

// The text, what carries loss in green, behind a line that names the row.
std::string preview_text(const Example& example, const Rendered& rendered, const EncodedRow& row);

// Prints the first `count` rows of the training data on stdout, in the file's order. Refuses no row that can be
// rendered: what training would drop or refuse is a warning.
void show_preview(const DataSources& sources, const RowEncoder& encoder, const ModelLimits& limits, std::int64_t count,
                  bool json);

// report.html: counts, the lengths as a histogram, warnings. One file, no scripts, no network.
std::string prepare_report(const PreparedData& data);

}  // namespace qlora
