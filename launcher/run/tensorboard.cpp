#include "launcher/run/tensorboard.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstring>

#include "core/io/crc32c.h"
#include "launcher/run/machine.h"

namespace thimble {
namespace {

double wall_time_s() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration<double>(now).count();
}

/// TensorBoard lists files by name and expects ".tfevents." and the time in it; starts within one
/// second differ by the last number.
std::filesystem::path new_event_path(const std::filesystem::path& directory) {
  const auto seconds = static_cast<std::int64_t>(wall_time_s());
  for (int number = 0;; ++number) {
    std::filesystem::path path =
        directory / fmt::format("events.out.tfevents.{}.{}.{}", seconds, host_name(), number);
    if (!std::filesystem::exists(path)) return path;
  }
}

template <typename T>
void put_little_endian(std::string& out, T value) {
  std::array<char, sizeof(T)> bytes{};
  std::memcpy(bytes.data(), &value, sizeof(T));
  out.append(bytes.data(), bytes.size());
}

/// The format stores checksums rotated and shifted, so that a checksum of data that holds checksums
/// stays useful.
std::uint32_t masked_checksum(std::string_view bytes) {
  const std::uint32_t checksum = crc32c(std::as_bytes(std::span(bytes)));
  return ((checksum >> 15) | (checksum << 17)) + 0xa282ead8u;
}

// The wire format of tensorboard_event.proto, written by hand: libprotobuf and the older one that
// Debian's libsentencepiece exports cannot live in one process. The tests read it back with
// libprotobuf.
enum class Wire : std::uint8_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

void put_varint(std::string& out, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>(value | 0x80));
  out.push_back(static_cast<char>(value));
}

void put_key(std::string& out, std::uint32_t field, Wire wire) {
  put_varint(out, field << 3 | static_cast<std::uint32_t>(wire));
}

void put_bytes(std::string& out, std::uint32_t field, std::string_view bytes) {
  put_key(out, field, Wire::kBytes);
  put_varint(out, bytes.size());
  out.append(bytes);
}

// An event with its time and, if not 0, its step.
std::string new_event(std::int64_t step) {
  std::string event;
  put_key(event, 1, Wire::kFixed64);
  put_little_endian(event, wall_time_s());
  if (step != 0) {
    put_key(event, 2, Wire::kVarint);
    put_varint(event, static_cast<std::uint64_t>(step));
  }
  return event;
}

}  // namespace

std::string tensorboard_record(std::string_view message) {
  std::string record;
  put_little_endian(record, static_cast<std::uint64_t>(message.size()));
  const std::uint32_t length_checksum = masked_checksum(record);
  put_little_endian(record, length_checksum);
  record.append(message);
  put_little_endian(record, masked_checksum(message));
  return record;
}

TensorBoardWriter::TensorBoardWriter(const std::filesystem::path& directory,
                                     std::int64_t first_step)
    : path_(new_event_path(directory)), file_(path_) {
  std::string version = new_event(0);
  put_bytes(version, 3, "brain.Event:2");
  file_.append(tensorboard_record(version));
  std::string started;
  put_key(started, 1, Wire::kVarint);
  put_varint(started, 1);  // SessionLog.START
  std::string start = new_event(first_step);
  put_bytes(start, 7, started);
  file_.append(tensorboard_record(start));
}

void TensorBoardWriter::scalars(std::int64_t step, std::span<const Scalar> values) {
  std::string summary;
  for (const auto& [tag, value] : values) {
    std::string item;
    put_bytes(item, 1, tag);
    put_key(item, 2, Wire::kFixed32);
    put_little_endian(item, static_cast<float>(value));
    put_bytes(summary, 1, item);
  }
  std::string event = new_event(step);
  put_bytes(event, 5, summary);
  file_.append(tensorboard_record(event));
}

}  // namespace thimble
