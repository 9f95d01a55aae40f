// libFuzzer target: any bytes as a safetensors header either parse or raise a UserError, and every
// range that is accepted lies inside the file.
#include <cstdlib>

#include "core/base/error.h"
#include "core/io/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  // The first byte is the number of data bytes behind the header.
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  const auto file_bytes = static_cast<std::int64_t>(8 + text.size() + data[0]);
  try {
    const auto header = thimble::parse_safetensors_header(text, file_bytes, "input");
    for (const thimble::SafetensorsEntry& entry : header.entries) {
      if (entry.offset < 8 || entry.bytes < 0 || entry.offset + entry.bytes > file_bytes)
        std::abort();
    }
  } catch (const thimble::UserError&) {
  }
  return 0;
}
