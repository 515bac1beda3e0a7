// SHA-256, by OpenSSL: fingerprints of data, options and files.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace qlora {

// Fed in pieces; hex() ends it and may be called once.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;

  Sha256& update(std::string_view bytes);
  std::string hex();  // 64 lower-case digits

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string sha256(std::string_view bytes);

}  // namespace qlora
