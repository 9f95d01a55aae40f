// libFuzzer target: any bytes as a tokenizer.json either load or raise a UserError, and a tokenizer
// that loads encodes and decodes without leaving its vocabulary.
#include <cstdint>
#include <cstdlib>

#include "core/base/error.h"
#include "data/tokenizer.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const auto tokenizer =
        thimble::load_tokenizer_json({reinterpret_cast<const char*>(data), size}, "input");
    for (const bool parse_special : {false, true}) {
      const auto ids =
          tokenizer->encode("Hello  w\xC3\xB6rld 123 <s>\n\xFF\xE2\x96\x81", {parse_special});
      for (const std::int32_t id : ids) {
        if (id < 0 || id >= tokenizer->vocab_size()) std::abort();
      }
      (void)tokenizer->decode(ids, {.skip_special = false});
    }
  } catch (const thimble::UserError&) {
  }
  return 0;
}
