// libFuzzer target: any bytes as a pickle either parse or raise a UserError; a bounded walk over
// the values ends.
#include "core/base/error.h"
#include "core/io/pickle.h"

namespace {

std::size_t walk(const thimble::PickleValue& value, int depth) {
  std::size_t bytes = value.describe().size();
  if (depth == 0) return bytes;
  for (std::size_t i = 0; i < std::min<std::size_t>(value.size(), 4); ++i)
    bytes += walk(value.item(i), depth - 1);
  if (const auto state = value.state()) bytes += walk(*state, depth - 1);
  return bytes;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const auto root =
        thimble::PickleValue::parse({reinterpret_cast<const char*>(data), size}, "input");
    walk(root, 4);
    static_cast<void>(root.find("model"));
  } catch (const thimble::UserError&) {
  }
  return 0;
}
