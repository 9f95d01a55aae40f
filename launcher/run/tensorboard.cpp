#include "launcher/run/tensorboard.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstddef>
#include <cstring>

#include "core/io/crc32c.h"
#include "launcher/run/tensorboard_event.pb.h"

namespace thimble {
namespace {

double wall_time_s() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration<double>(now).count();
}

/// TensorBoard lists files by name and expects ".tfevents." and the time in it; starts within one second differ by
/// the last number.
std::filesystem::path new_event_path(const std::filesystem::path& directory) {
  std::array<char, 256> host{};
  if (::gethostname(host.data(), host.size() - 1) != 0) host[0] = '\0';
  const auto seconds = static_cast<std::int64_t>(wall_time_s());
  for (int number = 0;; ++number) {
    std::filesystem::path path =
        directory / fmt::format("events.out.tfevents.{}.{}.{}", seconds, host.data(), number);
    if (!std::filesystem::exists(path)) return path;
  }
}

template <typename T>
void put_little_endian(std::string& out, T value) {
  std::array<char, sizeof(T)> bytes{};
  std::memcpy(bytes.data(), &value, sizeof(T));
  out.append(bytes.data(), bytes.size());
}

/// The format stores checksums rotated and shifted, so that a checksum of data that holds checksums stays useful.
std::uint32_t masked_checksum(std::string_view bytes) {
  const std::uint32_t checksum = crc32c(std::as_bytes(std::span(bytes)));
  return ((checksum >> 15) | (checksum << 17)) + 0xa282ead8u;
}

std::string record_of(const tensorboard::Event& event) {
  return tensorboard_record(event.SerializeAsString());
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
  tensorboard::Event version;
  version.set_wall_time(wall_time_s());
  version.set_file_version("brain.Event:2");
  file_.append(record_of(version));
  tensorboard::Event start;
  start.set_wall_time(wall_time_s());
  start.set_step(first_step);
  start.mutable_session_log()->set_status(tensorboard::SessionLog::START);
  file_.append(record_of(start));
}

void TensorBoardWriter::scalars(std::int64_t step, std::span<const Scalar> values) {
  tensorboard::Event event;
  event.set_wall_time(wall_time_s());
  event.set_step(step);
  for (const auto& [tag, value] : values) {
    auto* item = event.mutable_summary()->add_value();
    item->set_tag(std::string(tag));
    item->set_simple_value(static_cast<float>(value));
  }
  file_.append(record_of(event));
}

}  // namespace thimble
