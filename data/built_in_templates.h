// Chat templates for models that bring none.
#pragma once

#include <optional>
#include <span>
#include <string_view>

namespace thimble {

struct BuiltInTemplate {
  std::string_view name, source;
};

std::span<const BuiltInTemplate> built_in_templates();

}  // namespace thimble
