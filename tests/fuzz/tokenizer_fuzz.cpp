// libFuzzer target: any bytes as a tokenizer file either load or raise a UserError, and a tokenizer
// that loads encodes and decodes without leaving its vocabulary. The first byte tells the kind, as
// it does in real files.
#include <cstdint>
#include <cstdlib>

#include "core/base/error.h"
#include "data/tokenizer.h"
#include "data/tokenizer_vocab.h"

namespace {

std::unique_ptr<thimble::Tokenizer> load(std::string_view bytes) {
  constexpr char kSentencePieceStart = '\n';
  if (bytes.starts_with('{')) return thimble::load_tokenizer_json(bytes, "input");
  if (bytes.starts_with(kSentencePieceStart)) {
    return thimble::make_sentencepiece_tokenizer(bytes, "input", {});
  }
  return thimble::make_llama2c_tokenizer(bytes, "input");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const auto tokenizer = load({reinterpret_cast<const char*>(data), size});
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
