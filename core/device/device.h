// Where bytes live and where work runs: small value types without any backend header.
#pragma once

#include <cstdint>
#include <string_view>

namespace thimble {

enum class DeviceKind : std::uint8_t { kCpu, kGpu };

/// A device, or the plan of one: a planning device has the sizes and rules of its kind but no
/// bytes, so the same allocation sequence can be run on it before anything real is touched.
struct Device {
  DeviceKind kind = DeviceKind::kCpu;
  bool planning = false;

  friend bool operator==(const Device&, const Device&) = default;
};

constexpr std::string_view device_name(Device device) {
  if (device.kind == DeviceKind::kGpu) return device.planning ? "plan of gpu" : "gpu";
  return device.planning ? "plan of cpu" : "cpu";
}

}  // namespace thimble
