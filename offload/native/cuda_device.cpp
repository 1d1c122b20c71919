#include "offload/native/cuda_device.hpp"

#include <algorithm>
#include <chrono>
#include <thread>

#include "index/native/error.hpp"

namespace kvatlas {
namespace {

constexpr size_t kPinnedTogether = size_t{64} << 30;  // one registration; drivers refuse very large ones
constexpr size_t kBatchMost = 16384;                  // copies of one call
constexpr double kPauseSecondsMax = 1e-4;
constexpr cuda::Result kNotSupported = 801;

cuda::DeviceAddress address_of(const uint8_t* pointer) { return reinterpret_cast<uintptr_t>(pointer); }

}  // namespace

// Ends when its end event has passed. Its buffers go back with it, its events too where the device still works.
class CudaBatch final : public Batch {
 public:
  CudaBatch(CudaDevice& device, std::vector<Copy> copies) : copies(std::move(copies)), device_(device) {}
  ~CudaBatch() override {
    if (state_ == State::running || device_.is_lost()) {
      for (auto& buffer : buffers) static_cast<void>(buffer.release());  // perhaps still read
      return;
    }
    for (const cuda::Event event : {begin, end}) {
      if (event != nullptr) device_.events_.push_back(event);
    }
  }

  State state() override {
    if (state_ != State::running) return state_;
    if (device_.is_lost()) return fail(device_.lost_);
    const cuda::CurrentContext current(*device_.driver_, device_.context_);
    const cuda::Result result = current.result != cuda::kSuccess ? current.result : device_.driver_->event_query(end);
    if (result == cuda::kNotReady) return State::running;
    if (!device_.succeeds("cuEventQuery", result)) {
      device_.lose(device_.last_error_);
      return fail(device_.last_error_);
    }
    float ms = 0;
    if (device_.driver_->event_elapsed_ms(&ms, begin, end) == cuda::kSuccess) seconds_ = static_cast<double>(ms) * 1e-3;
    return state_ = refused.empty() ? State::done : State::failed;
  }
  double seconds() override { return seconds_; }
  std::string error() override { return refused; }
  State fail(const std::string& why) {
    if (refused.empty()) refused = why;
    return state_ = State::failed;
  }

  const std::vector<Copy> copies;
  std::vector<uint32_t> order;                              // of the copies: small ones first
  std::vector<cuda::DeviceAddress> destinations, sources;   // as the driver was given them, until the batch ends
  std::vector<size_t> sizes;
  std::vector<std::unique_ptr<cuda::Gather::Buffer>> buffers;
  cuda::Event begin = nullptr, end = nullptr;
  std::string refused;  // why a part was not put

 private:
  CudaDevice& device_;
  State state_ = State::running;
  double seconds_ = 0;
};

CudaDevice::CudaDevice(std::shared_ptr<const cuda::Driver> driver, const CudaOptions& options)
    : driver_(std::move(driver)), options_(options) {
  try {
    open();
  } catch (...) {
    release();
    throw;
  }
}

void CudaDevice::open() {
  const std::string where = "cuda:" + std::to_string(options_.ordinal);
  const auto must = [&](const char* call, cuda::Result result) {
    if (result != cuda::kSuccess) throw Error(ErrorKind::store, where + ": expected a usable device, got " + driver_->explain(call, result));
  };
  must("cuDeviceGet", driver_->device_get(&device_, options_.ordinal));
  char text[256] = {};
  if (driver_->device_get_name(text, sizeof text - 1, device_) == cuda::kSuccess) name_ = text;
  char bus[64] = {};
  if (driver_->device_get_pci_bus_id(bus, sizeof bus - 1, device_) == cuda::kSuccess) pci_address_ = bus;
  std::transform(pci_address_.begin(), pci_address_.end(), pci_address_.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  must("cuDevicePrimaryCtxRetain", driver_->primary_context_retain(&context_, device_));
  const cuda::CurrentContext current(*driver_, context_);
  must("cuCtxPushCurrent", current.result);
  int least = 0, greatest = 0;  // requests wait for loads, nobody for stores
  must("cuCtxGetStreamPriorityRange", driver_->context_priority_range(&least, &greatest));
  must("cuStreamCreateWithPriority", driver_->stream_create(&streams_[static_cast<size_t>(Direction::store)], cuda::kStreamNonBlocking, least));
  must("cuStreamCreateWithPriority", driver_->stream_create(&streams_[static_cast<size_t>(Direction::load)], cuda::kStreamNonBlocking, greatest));
  must("cuEventCreate", driver_->event_create(&order_, cuda::kEventWithoutTimes));
  has_batches_ = driver_->copy_batch != nullptr || driver_->copy_batch_indexed != nullptr;
  if (options_.gather_loads_below_bytes != 0 || options_.gather_stores_below_bytes != 0) {
    gather_ = cuda::Gather::make(driver_, why_no_gather_);
  }
}

CudaDevice::~CudaDevice() {
  if (is_lost()) static_cast<void>(gather_.release());  // see the header
  else release();
}

void CudaDevice::release() {
  if (context_ == nullptr) return;
  {
    const cuda::CurrentContext current(*driver_, context_);
    gather_.reset();
    for (const cuda::Stream stream : streams_) {
      if (stream != nullptr) driver_->stream_destroy(stream);
    }
    if (order_ != nullptr) events_.push_back(order_);
    for (const cuda::Event event : events_) driver_->event_destroy(event);
  }
  driver_->primary_context_release(device_);
}

bool CudaDevice::pin(uint8_t* memory, size_t bytes, size_t row_bytes) {
  const cuda::CurrentContext current(*driver_, context_);
  if (!succeeds("cuCtxPushCurrent", current.result)) return false;
  const size_t together = std::max<size_t>(kPinnedTogether / row_bytes, 1) * row_bytes;
  bool is_pinned = true;
  is_mapped_ = true;
  for (size_t at = 0; at < bytes && is_pinned; at += together) {
    const cuda::Result result = driver_->host_register(memory + at, std::min(together, bytes - at), cuda::kRegisterPortable | cuda::kRegisterMapped);
    if (result == cuda::kSuccess) registered_.push_back(memory + at);
    else if (result != cuda::kAlreadyRegistered) is_pinned = succeeds("cuMemHostRegister", result);
    cuda::DeviceAddress seen = 0;
    if (!is_pinned || driver_->host_device_address(&seen, memory + at, 0) != cuda::kSuccess) {
      is_mapped_ = false;
      continue;
    }
    const int64_t shift = static_cast<int64_t>(seen - address_of(memory + at));
    if (at != 0 && shift != row_shift_) is_mapped_ = false;
    row_shift_ = shift;
  }
  if (!is_pinned) unpin();
  return is_pinned;
}

void CudaDevice::unpin() {
  is_mapped_ = false;
  if (is_lost()) return;  // see the header
  const cuda::CurrentContext current(*driver_, context_);
  for (void* memory : registered_) succeeds("cuMemHostUnregister", driver_->host_unregister(memory));
  registered_.clear();
}

bool CudaDevice::succeeds(const char* call, cuda::Result result) {
  if (result == cuda::kSuccess) return true;
  ++counts_.device_errors;
  last_error_ = "cuda:" + std::to_string(options_.ordinal) + ": " + driver_->explain(call, result);
  return false;
}

void CudaDevice::lose(const std::string& why) {
  if (lost_.empty()) lost_ = why.empty() ? "lost" : why;
}

cuda::Event CudaDevice::take_event() {
  cuda::Event event = nullptr;
  if (!events_.empty()) {
    event = events_.back();
    events_.pop_back();
  } else if (!succeeds("cuEventCreate", driver_->event_create(&event, cuda::kEventDefault))) {
    return nullptr;
  }
  return event;
}

// After what the caller's stream was given so far. The event can be used again at once: a wait is for what was recorded.
bool CudaDevice::order(cuda::Stream stream, uint64_t after_stream, cuda::Event begin) {
  return succeeds("cuEventRecord", driver_->event_record(order_, reinterpret_cast<cuda::Stream>(after_stream))) &&
         succeeds("cuStreamWaitEvent", driver_->stream_wait_event(stream, order_, 0)) &&
         succeeds("cuEventRecord", driver_->event_record(begin, stream));
}

std::unique_ptr<Batch> CudaDevice::start(std::vector<Copy> copies, Direction direction, uint64_t after_stream) {
  auto batch = std::make_unique<CudaBatch>(*this, std::move(copies));
  counts_.copies += batch->copies.size();
  if (is_lost()) {
    batch->fail(lost_);
    return batch;
  }
  const cuda::CurrentContext current(*driver_, context_);
  const cuda::Stream stream = streams_[static_cast<size_t>(direction)];
  if (!succeeds("cuCtxPushCurrent", current.result) || (batch->begin = take_event()) == nullptr ||
      (batch->end = take_event()) == nullptr || !order(stream, after_stream, batch->begin)) {
    batch->fail(last_error_);  // nothing was put
    return batch;
  }
  put(*batch, direction, stream);
  if (!succeeds("cuEventRecord", driver_->event_record(batch->end, stream))) {
    lose(last_error_);  // nobody can say when what was put ends
    batch->fail(last_error_);
  }
  return batch;
}

void CudaDevice::put(CudaBatch& batch, Direction direction, cuda::Stream stream) {
  const size_t below = direction == Direction::load ? options_.gather_loads_below_bytes : options_.gather_stores_below_bytes;
  batch.order.resize(batch.copies.size());
  for (size_t i = 0; i < batch.order.size(); ++i) batch.order[i] = static_cast<uint32_t>(i);
  size_t done = 0;
  if (gather_ != nullptr && is_mapped_) {
    const auto middle = std::stable_partition(batch.order.begin(), batch.order.end(), [&](uint32_t i) { return batch.copies[i].bytes < below; });
    const size_t n_small = static_cast<size_t>(middle - batch.order.begin());
    if (n_small >= options_.gather_least) done = put_gathered(batch, n_small, direction, stream);
  }
  if (!batch.refused.empty()) return;
  const bool is_put = has_batches_ ? put_batched(batch, done, direction, stream) : put_singly(batch, done, direction, stream);
  if (!is_put) batch.refused = last_error_;
}

// How many of the first n_small copies were put.
size_t CudaDevice::put_gathered(CudaBatch& batch, size_t n_small, Direction direction, cuda::Stream stream) {
  std::vector<Copy> some;
  size_t done = 0;
  while (done < n_small) {
    some.clear();
    const size_t end = std::min(n_small, done + cuda::Gather::kDescriptors);
    for (size_t i = done; i < end; ++i) some.push_back(batch.copies[batch.order[i]]);
    cuda::Result result = cuda::kSuccess;
    auto buffer = gather_->put(some, direction, row_shift_, stream, result);
    if (buffer == nullptr) {
      counts_.gathers_refused += n_small - done;
      break;
    }
    batch.buffers.push_back(std::move(buffer));
    if (!succeeds("cuLaunchKernel", result)) {
      batch.refused = last_error_;
      break;
    }
    counts_.gathered_copies += some.size();
    done = end;
  }
  return done;
}

bool CudaDevice::put_batched(CudaBatch& batch, size_t from, Direction direction, cuda::Stream stream) {
  for (size_t i = from; i < batch.order.size(); ++i) {
    const Copy& copy = batch.copies[batch.order[i]];
    batch.destinations.push_back(address_of(copy.to));
    batch.sources.push_back(address_of(copy.from));
    batch.sizes.push_back(copy.bytes);
  }
  // What a store reads is written by the engine's streams, up to the event that ours waits for; a load reads rows,
  // which no stream writes.
  cuda::CopyAttributes attributes{direction == Direction::store ? cuda::kOrderStream : cuda::kOrderAny, {}, {}, cuda::kOverlapWithCompute};
  for (size_t at = 0; at < batch.sizes.size(); at += kBatchMost) {
    const size_t n = std::min(kBatchMost, batch.sizes.size() - at);
    size_t first = 0, failed = 0;
    const cuda::Result result =
        driver_->copy_batch != nullptr
            ? driver_->copy_batch(&batch.destinations[at], &batch.sources[at], &batch.sizes[at], n, &attributes, &first, 1, stream)
            : driver_->copy_batch_indexed(&batch.destinations[at], &batch.sources[at], &batch.sizes[at], n, &attributes, &first, 1, &failed, stream);
    if (result == kNotSupported && at == 0) {
      has_batches_ = false;  // a driver that has it for another device
      return put_singly(batch, from, direction, stream);
    }
    if (!succeeds("cuMemcpyBatchAsync", result)) return false;
    counts_.batched_copies += n;
  }
  return true;
}

bool CudaDevice::put_singly(const CudaBatch& batch, size_t from, Direction direction, cuda::Stream stream) {
  for (size_t i = from; i < batch.order.size(); ++i) {
    const Copy& copy = batch.copies[batch.order[i]];
    const bool is_put =
        direction == Direction::store
            ? succeeds("cuMemcpyDtoHAsync", driver_->copy_to_host(copy.to, address_of(copy.from), copy.bytes, stream))
            : succeeds("cuMemcpyHtoDAsync", driver_->copy_to_device(address_of(copy.to), copy.from, copy.bytes, stream));
    if (!is_put) return false;
    ++counts_.single_copies;
  }
  return true;
}

void CudaDevice::pause(double seconds) {
  std::this_thread::sleep_for(std::chrono::duration<double>(std::min(seconds, kPauseSecondsMax)));
}

std::string CudaDevice::describe() const {
  std::string out = "cuda:" + std::to_string(options_.ordinal) + " " + name_ + ", driver " + std::to_string(driver_->version / 1000) + "." + std::to_string(driver_->version % 1000 / 10);
  out += has_batches_ ? ", batches" : ", single copies";
  if (gather_ != nullptr && is_mapped_) out += ", gathers";
  else if (!why_no_gather_.empty()) out += ", no gathers: " + why_no_gather_;
  return out;
}

}  // namespace kvatlas
