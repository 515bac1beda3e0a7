// The standard and third-party headers that most files need; part of what is precompiled. Not for the rooms without
// tensors: from a precompiled header gcc 12 takes the standard library's inlined code for ours, and warns of it.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>
