// What every unit test needs, parsed once.
#pragma once

#include "../../src/core/precompiled.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
