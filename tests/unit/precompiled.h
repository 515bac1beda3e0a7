// What every unit test needs, parsed once.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "../../src/core/precompiled.h"
