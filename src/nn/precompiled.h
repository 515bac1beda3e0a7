// The headers that every file with tensors needs. Narrow ATen headers: torch/torch.h costs 13 s a file.
#pragma once

#include <ATen/core/Tensor.h>

#include "../core/precompiled.h"
