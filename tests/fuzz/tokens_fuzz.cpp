// libFuzzer target: any bytes as a token file either open or raise an error, and every token and
// document of one that opens can be read. The input leaves out the padding before the tokens; with
// an odd last byte, which is not part of the file, its checksums are made right.
#include <cstring>
#include <vector>

#include "core/base/error.h"
#include "core/base/numeric.h"
#include "core/io/crc32c.h"
#include "data/token_file.h"
#include "tests/fuzz/memory_file.h"

namespace {

using namespace thimble;

void make_checksums_right(std::vector<std::byte>& file) {
  TokenFileHeader header;
  std::memcpy(&header, file.data(), sizeof header);
  const auto size = static_cast<std::int64_t>(file.size());
  const std::int64_t index = header.index_offset;
  if (index >= kTokensOffset && index <= size && header.num_tokens >= 0 &&
      header.num_tokens <= size && header.token_bytes <= 4) {
    const std::int64_t token_bytes = header.num_tokens * header.token_bytes;
    const std::int64_t blocks = ceil_div(token_bytes, kTokenBlockBytes);
    if (kTokensOffset + token_bytes <= size && 4 * blocks <= size - index) {
      for (std::int64_t b = 0; b < blocks; ++b) {
        const std::int64_t begin = b * kTokenBlockBytes,
                           bytes = std::min(kTokenBlockBytes, token_bytes - begin);
        const std::uint32_t crc = crc32c(std::span(file).subspan(
            static_cast<std::size_t>(kTokensOffset + begin), static_cast<std::size_t>(bytes)));
        std::memcpy(file.data() + size - 4 * (blocks - b), &crc, 4);
      }
    }
    header.index_crc = crc32c(std::span(file).subspan(static_cast<std::size_t>(index)));
  }
  std::memcpy(file.data(), &header, sizeof header);
  header.header_crc = crc32c(std::span(file).first(offsetof(TokenFileHeader, header_crc)));
  std::memcpy(file.data(), &header, sizeof header);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const auto input = std::as_bytes(std::span(data, size - 1));
  std::vector<std::byte> bytes(input.begin(), input.end());
  if (bytes.size() > sizeof(TokenFileHeader)) {
    bytes.insert(bytes.begin() + sizeof(TokenFileHeader), kTokensOffset - sizeof(TokenFileHeader),
                 std::byte{});
    if (data[size - 1] % 2 == 1) make_checksums_right(bytes);
  }
  const MemoryFile memory(bytes);
  try {
    const TokenFile file(memory.path());
    TH_CHECK(file.num_tokens() <= static_cast<std::int64_t>(size), "more tokens than bytes");
    for (std::int64_t d = 0; d < file.num_documents(); ++d) {
      TH_CHECK(file.document_tokens(d) >= 1 && file.prompt_tokens(d) <= file.document_tokens(d),
               "document {}", d);
      std::vector<std::int32_t> tokens(static_cast<std::size_t>(file.document_tokens(d)));
      file.copy_tokens(file.document_begin(d), tokens);
      for (const std::int32_t t : tokens)
        TH_CHECK(t >= 0 && t < file.header().vocab_size, "token {}", t);
    }
  } catch (const UserError&) {
  } catch (const SystemError&) {
  }
  return 0;
}
