// What a header of options needs to say that its struct is declared as config keys (core/schema.h).
#pragma once

namespace qlora {

template <class T>
class Schema;

}  // namespace qlora
