// A GPU for tests: emulated kernels on memory that the host cannot touch.
#pragma once

namespace thimble::gpu {

/// While one lives, the emulated device's memory can be read and written: kernels and copies hold
/// one.
class DeviceAccess {
 public:
  DeviceAccess();
  ~DeviceAccess();
  DeviceAccess(const DeviceAccess&) = delete;
  DeviceAccess& operator=(const DeviceAccess&) = delete;
};

}  // namespace thimble::gpu
