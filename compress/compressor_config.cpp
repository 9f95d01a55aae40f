#include "compress/compressor_config.h"

#include <algorithm>
#include <array>

#include "core/base/error.h"
#include "core/base/text.h"

namespace thimble {
namespace {

constexpr std::array<std::string_view, 2> kKindNames{"locret", "mkv"};

}  // namespace

std::vector<std::string> compressor_kind_names() {
  return {kKindNames.begin(), kKindNames.end()};
}

std::string_view compressor_kind_name(CompressorKind kind) {
  return kKindNames.at(static_cast<std::size_t>(kind));
}

CompressorKind parse_compressor_kind(std::string_view text, std::string_view where) {
  const auto found = std::find(kKindNames.begin(), kKindNames.end(), text);
  if (found == kKindNames.end()) {
    throw_user("{} = '{}': allowed {}", where, printable(text), join(compressor_kind_names()));
  }
  return static_cast<CompressorKind>(found - kKindNames.begin());
}

std::int64_t BackboneShape::layers_with_heads() const {
  return std::count(windows.begin(), windows.end(), 0);
}

}  // namespace thimble
