// The functions in gated activations.
#pragma once

namespace qlora {

// silu(z) = z * sigmoid(z); gelu in its tanh form, z / 2 * (1 + tanh(sqrt(2 / pi) * (z + 0.044715 z^3))).
enum class Activation { kSilu, kGeluTanh };

}  // namespace qlora
