#include "core/io/pickle_writer.h"

#include <bit>
#include <cstring>
#include <limits>

#include "core/base/numeric.h"

namespace thimble {
namespace {

template <typename T>
void append(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(T));
}

}  // namespace

void PickleWriter::integer(std::int64_t value) {
  if (std::in_range<std::int32_t>(value)) {
    out_ += 'J';
    append(out_, static_cast<std::int32_t>(value));
    return;
  }
  out_ += "\x8a\x08";
  append(out_, value);
}

void PickleWriter::number(double value) {
  auto bits = std::bit_cast<std::uint64_t>(value);
  out_ += 'G';
  for (int i = 0; i < 8; ++i, bits <<= 8) out_ += static_cast<char>(bits >> 56);
}

void PickleWriter::text(std::string_view value) {
  out_ += 'X';
  append(out_, narrow<std::uint32_t>(value.size()));
  out_ += value;
}

void PickleWriter::global(std::string_view module, std::string_view name) {
  out_ += 'c';
  out_ += module;
  out_ += '\n';
  out_ += name;
  out_ += '\n';
}

void PickleWriter::integers(std::span<const std::int64_t> values) {
  begin_tuple();
  for (const std::int64_t value : values) integer(value);
  end_tuple();
}

}  // namespace thimble
