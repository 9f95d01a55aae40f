// The records of a zip file (PKWARE APPNOTE 6.3, sections 4.3 and 4.5.3), for its reader and
// writer.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace thimble::zip {

static_assert(std::endian::native == std::endian::little, "the format is little-endian");

inline constexpr std::uint32_t kLocalSignature = 0x04034b50, kCentralSignature = 0x02014b50,
                               kEndSignature = 0x06054b50, kEnd64Signature = 0x06064b50,
                               kLocator64Signature = 0x07064b50;
inline constexpr std::int64_t kLocalBytes = 30, kCentralBytes = 46, kEndBytes = 22,
                              kEnd64Bytes = 56, kLocator64Bytes = 20;
/// A 32-bit or 16-bit field with all bits set: its value is in a ZIP64 record.
inline constexpr std::uint32_t kIn64 = 0xFFFFFFFFu;
inline constexpr std::uint16_t kCountIn64 = 0xFFFFu;
inline constexpr std::uint16_t kExtra64 = 1;

/// The value at a byte of a record; the caller has checked that it is there.
template <typename T>
T get(std::string_view record, std::size_t at) {
  T value{};
  std::memcpy(&value, record.data() + at, sizeof(T));
  return value;
}

template <typename T>
void put(std::string& record, T value) {
  record.append(reinterpret_cast<const char*>(&value), sizeof(T));
}

}  // namespace thimble::zip
