// The library's one exception type.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

#include "deploykit/export.h"

namespace deploykit {

// `code` is a short stable word: invalid | unsupported | missing | memory | device | internal.
class DEPLOYKIT_EXPORT Error : public std::runtime_error {
 public:
  Error(std::string code, const std::string& what) : std::runtime_error(what), code_(std::move(code)) {}
  const std::string& code() const noexcept { return code_; }

 private:
  std::string code_;
};

}  // namespace deploykit
