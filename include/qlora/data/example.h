// What one row of a data set says, whatever format it came in.
#pragma once

#include <string>

#include "qlora/core/json.h"

namespace qlora {

struct Example {
  enum class Kind {
    kChat,        // messages, rendered by a chat template
    kCompletion,  // prompt + answer + the end token, as they are
    kText,        // answer alone, as it is
  };

  Kind kind = Kind::kChat;
  Json id;            // the row's own `id`, else its index from 0
  std::string place;  // "file:line", for errors

  // kChat. Null where the row has none.
  Json messages = Json::array();
  Json tools;
  Json documents;
  Json chat_template_kwargs;

  // kCompletion: what stands before the answer. read_example() puts the system message before it.
  std::string system, prompt;
  // kCompletion and kText. Of a chat the answers are the messages of role `assistant`.
  std::string answer;

  Json row;  // the row as it was read: gold queries and other columns
};

}  // namespace qlora
