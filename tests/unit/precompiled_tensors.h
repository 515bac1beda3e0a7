// What every unit test with tensors needs, parsed once.
#pragma once

#include "../../src/nn/precompiled.h"
#include "precompiled.h"
