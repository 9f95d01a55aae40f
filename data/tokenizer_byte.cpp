#include "core/base/numeric.h"
#include "data/tokenizer_vocab.h"

namespace thimble {
namespace {

constexpr std::int32_t kSeparator = 256;

class ByteTokenizer final : public Tokenizer {
 public:
  ByteTokenizer() {
    std::vector<std::string> texts;
    for (int byte = 0; byte < 256; ++byte) texts.emplace_back(1, static_cast<char>(byte));
    texts.emplace_back("<|endoftext|>");
    const std::int32_t special[] = {kSeparator};
    set_tokens(texts, special);
    info_.name = "byte";
    info_.bos_id = info_.eos_id = kSeparator;
    info_.add_bos = true;
    info_.digest = tokenizer_digest(info_, {info_.name});
  }

  void encode_to(std::string_view text, EncodeOptions options,
                 std::vector<std::int32_t>& ids) const override {
    const std::string_view separator = token_text(kSeparator);
    while (!text.empty()) {
      if (options.parse_special && text.starts_with(separator)) {
        ids.push_back(kSeparator);
        text.remove_prefix(separator.size());
      } else {
        ids.push_back(static_cast<std::uint8_t>(text.front()));
        text.remove_prefix(1);
      }
    }
  }
};

}  // namespace

std::unique_ptr<Tokenizer> make_byte_tokenizer() {
  return std::make_unique<ByteTokenizer>();
}

}  // namespace thimble
