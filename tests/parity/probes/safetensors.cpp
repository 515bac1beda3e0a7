// probe_safetensors check FILE...         a line a file: "ok", or why it is refused
// probe_safetensors copy IN OUT           the tensors and metadata of IN, written anew
// probe_safetensors shard IN FOLDER BYTES into a model folder, in shards of BYTES
// probe_safetensors adapter IN OUT LINEARS an adapter folder loaded, checked against its base (lines "NAME OUT IN" of
// the file
//                                         LINEARS; the last is the head) and saved; prints a line "MODULE RANK SCALE"
//                                         each
#include <fstream>
#include <iostream>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <fmt/format.h>

#include "qlora/adapters/peft.h"
#include "qlora/core/error.h"
#include "qlora/formats/model_folder.h"

namespace {

using namespace qlora;

void check(const std::vector<std::string>& files) {
  for (const std::string& file : files) {
    try {
      const SafetensorsFile opened(file);
      std::cout << "ok\n";
    } catch (const DataError& error) {
      std::cout << error.what() << "\n";
    }
  }
}

void copy(const SafetensorsFile& in, const std::string& out) {
  std::map<std::string, HostTensor> tensors;
  for (const SafetensorsEntry& entry : in.entries()) tensors[entry.spec.name] = in.tensor(entry);
  write_safetensors(out, tensors, in.metadata());
}

void shard(const SafetensorsFile& in, const std::string& folder, std::uint64_t bytes) {
  std::vector<TensorSpec> specs;
  for (const SafetensorsEntry& entry : in.entries()) specs.push_back(entry.spec);
  ModelFolderWriter writer(folder, specs, bytes);
  for (const SafetensorsEntry& entry : in.entries()) writer.append(entry.spec.name, in.tensor(entry).bytes);
  writer.commit();
}

void adapter(const std::string& in, const std::string& out, const std::string& linears_file) {
  std::map<std::string, Shape> linears;
  std::string name;
  std::string head;
  std::ifstream file(linears_file);
  for (Shape shape(2); file >> name >> shape[0] >> shape[1]; head = name) linears[name] = shape;
  const LoraAdapter loaded = load_lora_adapter(in);
  check_lora_adapter(loaded, linears, {head});
  for (const LoraMatrices& matrices : loaded.matrices) {
    std::cout << fmt::format("{} {} {}\n", matrices.module, lora_rank(loaded.config, matrices.module),
                             lora_scale(loaded.config, matrices.module));
  }
  save_lora_adapter(out, loaded.config, loaded.matrices, loaded.saved,
                    AdapterRecord{"nf4", true, "float32", "config", "weights"});
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  try {
    const std::string& command = arguments.at(0);
    if (command == "check") check({arguments.begin() + 1, arguments.end()});
    if (command == "copy") copy(SafetensorsFile(arguments.at(1)), arguments.at(2));
    if (command == "shard") shard(SafetensorsFile(arguments.at(1)), arguments.at(2), std::stoull(arguments.at(3)));
    if (command == "adapter") adapter(arguments.at(1), arguments.at(2), arguments.at(3));
  } catch (const Error& error) {
    std::cerr << error.what() << "\n";
    return static_cast<int>(error.code());
  }
  return 0;
}
