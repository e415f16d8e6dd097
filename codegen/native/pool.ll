; The thread pool of native programs.
;
; A kernel hands a parallel loop to @launch. The loop is cut in chunks; the calling thread claims
; chunks from the front, workers from the back (every second one from the front too), so that on a
; quiet machine each thread computes the same stretch step after step, and finds it in its cache.
;
; All that is shared about claims is one word, the ticket: (sequence: 32, front: 16, back: 16).
; Chunks front ... back-1 are free. A chunk is claimed by one compare-and-swap of the whole word.
; What follows from that:
;  - A job's fields are read only after a claim, and written only when no chunk is free and none
;    is being computed, so they never change under a reader.
;  - A thread that was descheduled holding an old ticket fails its compare-and-swap, because every
;    job has another sequence number: it cannot touch a job that it did not look at.
;  - A job ends when the chunks that were claimed are done. Workers that claimed none, because they
;    sleep or have no processor, are never waited for: the caller computes what nobody takes.
;
; A worker that loses its processor to another process in the middle of a chunk would be waited for
; until the scheduler's next turn, milliseconds. The caller sees that the time which the worker has
; computed stands still, moves the worker to its own processor and sleeps; then it moves it back.
;
; The functions of the processor (@pause, @read_mode, @write_mode) and the numbers in angle
; brackets are filled in by pool.py.

target triple = "<triple>"

%set = type [128 x i8]                         ; of processors, as Linux has them
%worker = type { i64, i64, i32, i32, %set }    ; pthread, time computed, in a chunk?, moved?, its set
%env = type { ptr, i32 }                       ; what TVM's loops read of it: the number of chunks
%job = type { i64, ptr, ptr, %env, i64 }       ; ticket, loop, its data, chunks, mode of arithmetic

@job = internal global %job zeroinitializer, align 128
@pending = internal global i32 0, align 128    ; chunks of the job that are not done
@waiting = internal global i32 0               ; whether the caller sleeps until they are
@busy = internal global i32 0, align 128       ; whether some thread has a job here
@sleeping = internal global i32 0, align 128   ; workers that sleep, or are about to
@workers = internal global [<workers> x %worker] zeroinitializer, align 128
@caller = internal global %worker zeroinitializer, align 128  ; only its third field is used
@started = internal global i32 0               ; whether this process has made its workers
@spins = internal global i64 0                 ; looks before a waiting thread lets others run
@worker_time = internal global i64 0           ; nanoseconds of that before a worker sleeps
@caller_time = internal global i64 0           ; and before a caller does
@short = internal constant [2 x i64] [ i64 0, i64 <sleep> ]
@whole = internal constant %env { ptr null, i32 1 }
@unblocked = internal constant [16 x i64] [<signals>]

declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @pthread_detach(i64)
declare i32 @pthread_sigmask(i32, ptr, ptr)
declare i32 @pthread_getcpuclockid(i64, ptr)
declare i32 @pthread_getaffinity_np(i64, i64, ptr)
declare i32 @pthread_setaffinity_np(i64, i64, ptr)
declare i32 @sched_getcpu()
declare i32 @sched_yield()
declare i32 @clock_gettime(i32, ptr)
declare i64 @syscall(i64, ...)

; --- calls from kernels ---------------------------------------------------------------------------

; Run a parallel loop: loop(chunk, env, data) for all chunks. The data begin with the number of
; iterations of the loop.
define i32 @hornfels_launch(ptr %loop, ptr %data, i32 %unused) {
entry:
  %since = alloca i64
  %extent = load i32, ptr %data
  %alone = icmp ule i32 %extent, 1
  br i1 %alone, label %serial, label %try

try:
  %lock = cmpxchg ptr @busy, i32 0, i32 1 acquire monotonic
  %mine = extractvalue { i32, i1 } %lock, 1
  br i1 %mine, label %locked, label %serial

serial:                                        ; another thread computes here, or this one does
  call i32 %loop(i32 0, ptr @whole, ptr %data)
  ret i32 0

locked:
  %started = load i32, ptr @started
  %ready = icmp ne i32 %started, 0
  br i1 %ready, label %publish, label %start

start:
  call void @start()
  br label %publish

publish:
  %more = add i32 %extent, <most_chunks_less_one>
  %step = udiv i32 %more, <most_chunks>
  %above = add i32 %extent, %step
  %top = sub i32 %above, 1
  %chunks = udiv i32 %top, %step
  %loop_at = getelementptr %job, ptr @job, i32 0, i32 1
  %data_at = getelementptr %job, ptr @job, i32 0, i32 2
  %env = getelementptr %job, ptr @job, i32 0, i32 3
  %chunks_at = getelementptr %env, ptr %env, i32 0, i32 1
  %mode_at = getelementptr %job, ptr @job, i32 0, i32 4
  %mode = call i64 @read_mode()
  store ptr %loop, ptr %loop_at
  store ptr %data, ptr %data_at
  store i32 %chunks, ptr %chunks_at
  store i64 %mode, ptr %mode_at
  store atomic i32 %chunks, ptr @pending monotonic, align 4
  %old = load atomic i64, ptr @job monotonic, align 8
  %sequence = and i64 %old, -4294967296
  %next = add i64 %sequence, 4294967296
  %back = zext i32 %chunks to i64
  %ticket = or i64 %next, %back
  store atomic i64 %ticket, ptr @job seq_cst, align 8
  %sleeping = load atomic i32, ptr @sleeping seq_cst, align 4
  %awake = icmp eq i32 %sleeping, 0
  br i1 %awake, label %compute, label %wake

wake:
  %others = sub i32 %chunks, 1
  call void @wake(ptr getelementptr (i8, ptr @job, i64 4), i32 %others)
  br label %compute

compute:
  call i1 @claim_all(ptr @caller, i1 true)
  br label %wait

wait:                                          ; for the chunks that workers have claimed
  %looks = phi i64 [ 0, %compute ], [ %looked, %look ], [ %looked, %check ], [ %looked, %up ]
  %left = load atomic i32, ptr @pending acquire, align 4
  %done = icmp eq i32 %left, 0
  br i1 %done, label %finish, label %look

look:
  %looked = add i64 %looks, 1
  %time = load i64, ptr @caller_time
  %tired = call i1 @pass_time(i64 %looks, ptr %since, i64 %time)
  %spins = load i64, ptr @spins
  %fresh = icmp ult i64 %looks, %spins
  br i1 %fresh, label %wait, label %check

check:
  %moved = call i1 @move_stopped()
  %rests = or i1 %moved, %tired
  br i1 %rests, label %sleep, label %wait

sleep:
  store atomic i32 1, ptr @waiting seq_cst, align 4
  %rest = load atomic i32, ptr @pending seq_cst, align 4
  %ended = icmp eq i32 %rest, 0
  br i1 %ended, label %up, label %down

down:
  %limit = select i1 %moved, ptr null, ptr @short  ; a worker may be stopped while this one sleeps
  call void @sleep_while(ptr @pending, i32 %rest, ptr %limit)
  br label %up

up:
  store atomic i32 0, ptr @waiting monotonic, align 4
  call void @move_back()
  br label %wait

finish:
  store atomic i32 0, ptr @busy release, align 4
  ret i32 0
}

; Run an entry with a table of pointers: set the bits of the mode of arithmetic, restore the mode.
define void @hornfels_run(ptr %entry, ptr %table, i64 %clear, i64 %set) {
  %mode = call i64 @read_mode()
  %rest = and i64 %mode, %clear
  %wanted = or i64 %rest, %set
  call void @write_mode(i64 %wanted)
  call i32 %entry(ptr %table)
  call void @write_mode(i64 %mode)
  ret void
}

; --- workers --------------------------------------------------------------------------------------

; Claim and compute chunks until none is free, from the front or the back; whether there was one.
define internal i1 @claim_all(ptr %self, i1 %from_front) {
entry:
  %computing = getelementptr %worker, ptr %self, i32 0, i32 2
  br label %look

look:
  %any = phi i1 [ false, %entry ], [ %any, %claim ], [ true, %compute ], [ true, %wake ]
  %ticket = load atomic i64, ptr @job acquire, align 8
  %high = lshr i64 %ticket, 16
  %front = and i64 %high, 65535
  %back = and i64 %ticket, 65535
  %free = icmp ult i64 %front, %back
  br i1 %free, label %claim, label %done

claim:
  %fewer = select i1 %from_front, i64 65536, i64 -1
  %rest = add i64 %ticket, %fewer
  %claimed = cmpxchg weak ptr @job, i64 %ticket, i64 %rest acq_rel monotonic
  %mine = extractvalue { i64, i1 } %claimed, 1
  br i1 %mine, label %compute, label %look

compute:
  %last = sub i64 %back, 1
  %wide = select i1 %from_front, i64 %front, i64 %last
  %chunk = trunc i64 %wide to i32
  %loop_at = getelementptr %job, ptr @job, i32 0, i32 1
  %data_at = getelementptr %job, ptr @job, i32 0, i32 2
  %env = getelementptr %job, ptr @job, i32 0, i32 3
  %mode_at = getelementptr %job, ptr @job, i32 0, i32 4
  %loop = load ptr, ptr %loop_at
  %data = load ptr, ptr %data_at
  %wanted = load i64, ptr %mode_at
  call void @write_mode(i64 %wanted)
  store atomic i32 1, ptr %computing monotonic, align 4
  call i32 %loop(i32 %chunk, ptr %env, ptr %data)
  store atomic i32 0, ptr %computing monotonic, align 4
  %before = atomicrmw sub ptr @pending, i32 1 seq_cst
  %waiting = load atomic i32, ptr @waiting seq_cst, align 4
  %ends = icmp eq i32 %before, 1
  %waited = icmp ne i32 %waiting, 0
  %needed = and i1 %ends, %waited
  br i1 %needed, label %wake, label %look

wake:
  call void @wake(ptr @pending, i32 1)
  br label %look

done:
  ret i1 %any
}

; A worker. Every second one claims from the front.
define internal ptr @work(ptr %self) {
entry:
  %since = alloca i64
  %place = ptrtoint ptr %self to i64
  %first = ptrtoint ptr @workers to i64
  %bytes = sub i64 %place, %first
  %size = ptrtoint ptr getelementptr (%worker, ptr null, i32 1) to i64
  %number = udiv i64 %bytes, %size
  %from_front = trunc i64 %number to i1
  br label %look

look:
  %looks = phi i64 [ 0, %entry ], [ %looked, %idle ], [ 0, %look ], [ 0, %up ]
  %any = call i1 @claim_all(ptr %self, i1 %from_front)
  br i1 %any, label %look, label %idle

idle:
  %looked = add i64 %looks, 1
  %time = load i64, ptr @worker_time
  %tired = call i1 @pass_time(i64 %looks, ptr %since, i64 %time)
  br i1 %tired, label %sleep, label %look

sleep:                                         ; until another job comes than the one seen last
  atomicrmw add ptr @sleeping, i32 1 seq_cst
  %ticket = load atomic i64, ptr @job seq_cst, align 8
  %high = lshr i64 %ticket, 16
  %front = and i64 %high, 65535
  %back = and i64 %ticket, 65535
  %free = icmp ult i64 %front, %back
  br i1 %free, label %up, label %down

down:
  %higher = lshr i64 %ticket, 32
  %sequence = trunc i64 %higher to i32
  call void @sleep_while(ptr getelementptr (i8, ptr @job, i64 4), i32 %sequence, ptr null)
  br label %up

up:
  atomicrmw sub ptr @sleeping, i32 1 seq_cst
  br label %look
}

; Pass some time between two looks, of which this is the one of that number: first at once ready,
; then so that whoever wants this processor gets it. Whether it is time to sleep.
define internal i1 @pass_time(i64 %looks, ptr %since, i64 %time) {
entry:
  %spins = load i64, ptr @spins
  %fresh = icmp ult i64 %looks, %spins
  br i1 %fresh, label %spin, label %yield

spin:
  call void @pause()
  ret i1 false

yield:
  %begins = icmp eq i64 %looks, %spins
  br i1 %begins, label %begin, label %continue

begin:
  %start = call i64 @now(i32 1)
  store i64 %start, ptr %since
  br label %continue

continue:
  call i32 @sched_yield()
  %then = load i64, ptr %since
  %now = call i64 @now(i32 1)
  %passed = sub i64 %now, %then
  %tired = icmp sge i64 %passed, %time
  ret i1 %tired
}

; Make the workers. They take no signals, except those that tell of a fault of their own.
define internal void @start() {
entry:
  %mask = alloca [16 x i64]
  call i32 @pthread_sigmask(i32 2, ptr @unblocked, ptr %mask)
  br label %check

check:
  %number = phi i64 [ 0, %entry ], [ %next, %made ], [ %next, %make ]
  %more = icmp ult i64 %number, <workers>
  br i1 %more, label %make, label %done

make:                                          ; without some of them it is slower, not wrong
  %next = add i64 %number, 1
  %worker = getelementptr [<workers> x %worker], ptr @workers, i64 0, i64 %number
  %error = call i32 @pthread_create(ptr %worker, ptr null, ptr @work, ptr %worker)
  %fine = icmp eq i32 %error, 0
  br i1 %fine, label %made, label %check

made:
  %handle = load i64, ptr %worker
  call i32 @pthread_detach(i64 %handle)
  br label %check

done:
  call i32 @pthread_sigmask(i32 2, ptr %mask, ptr null)
  store i32 1, ptr @started
  ret void
}

; --- workers that lost their processors -----------------------------------------------------------

; Move the workers that compute a chunk, but have not since the last look, to this processor;
; whether there was one. It moves when this thread sleeps.
define internal i1 @move_stopped() {
entry:
  %clock = alloca i32
  %here = alloca %set
  br label %next

next:
  %number = phi i64 [ 0, %entry ], [ %after, %each ], [ %after, %look ], [ %after, %stays ], [ %after, %moved ]
  %any = phi i1 [ false, %entry ], [ %any, %each ], [ %any, %look ], [ %any, %stays ], [ true, %moved ]
  %more = icmp ult i64 %number, <workers>
  br i1 %more, label %each, label %done

each:
  %after = add i64 %number, 1
  %worker = getelementptr [<workers> x %worker], ptr @workers, i64 0, i64 %number
  %computing_at = getelementptr %worker, ptr %worker, i32 0, i32 2
  %computing = load atomic i32, ptr %computing_at monotonic, align 4
  %computes = icmp ne i32 %computing, 0
  br i1 %computes, label %look, label %next

look:
  %time_at = getelementptr %worker, ptr %worker, i32 0, i32 1
  %handle = load i64, ptr %worker
  call i32 @pthread_getcpuclockid(i64 %handle, ptr %clock)
  %kind = load i32, ptr %clock
  %time = call i64 @now(i32 %kind)
  %before = load i64, ptr %time_at
  store i64 %time, ptr %time_at
  %stopped = icmp eq i64 %time, %before
  br i1 %stopped, label %move, label %next

move:
  %set = getelementptr %worker, ptr %worker, i32 0, i32 4
  store %set zeroinitializer, ptr %here
  %processor = call i32 @sched_getcpu()
  call void @change(ptr %here, i32 %processor)
  %unknown = call i32 @pthread_getaffinity_np(i64 %handle, i64 128, ptr %set)
  %known = icmp eq i32 %unknown, 0
  br i1 %known, label %send, label %stays

send:
  %refused = call i32 @pthread_setaffinity_np(i64 %handle, i64 128, ptr %here)
  %fine = icmp eq i32 %refused, 0
  br i1 %fine, label %moved, label %stays

stays:                                         ; more processors than a set has, or not allowed
  br label %next

moved:
  %moved_at = getelementptr %worker, ptr %worker, i32 0, i32 3
  store i32 1, ptr %moved_at
  br label %next

done:
  ret i1 %any
}

; Move them back: to any other of their processors at once, and then let them be on all.
define internal void @move_back() {
entry:
  br label %next

next:
  %number = phi i64 [ 0, %entry ], [ %after, %look ], [ %after, %move ]
  %more = icmp ult i64 %number, <workers>
  br i1 %more, label %look, label %done

look:
  %after = add i64 %number, 1
  %worker = getelementptr [<workers> x %worker], ptr @workers, i64 0, i64 %number
  %moved_at = getelementptr %worker, ptr %worker, i32 0, i32 3
  %moved = load i32, ptr %moved_at
  %away = icmp ne i32 %moved, 0
  br i1 %away, label %move, label %next

move:
  store i32 0, ptr %moved_at
  %handle = load i64, ptr %worker
  %set = getelementptr %worker, ptr %worker, i32 0, i32 4
  %processor = call i32 @sched_getcpu()          ; asked once: this thread may be moved meanwhile
  call void @change(ptr %set, i32 %processor)
  call i32 @pthread_setaffinity_np(i64 %handle, i64 128, ptr %set)
  call void @change(ptr %set, i32 %processor)
  call i32 @pthread_setaffinity_np(i64 %handle, i64 128, ptr %set)
  br label %next

done:
  ret void
}

; Take a processor out of a set, or put it in.
define internal void @change(ptr %set, i32 %processor) {
  %word = lshr i32 %processor, 6
  %inside = and i32 %word, 15
  %place = getelementptr i64, ptr %set, i32 %inside
  %bit = and i32 %processor, 63
  %wide = zext i32 %bit to i64
  %mask = shl i64 1, %wide
  %old = load i64, ptr %place
  %new = xor i64 %old, %mask
  store i64 %new, ptr %place
  ret void
}

; --- for pool.py ----------------------------------------------------------------------------------

; A child process has none of its parent's threads: what they did is undone, the next job makes new.
define void @hornfels_forked() {
  store atomic i64 0, ptr @job monotonic, align 8
  store atomic i32 0, ptr @pending monotonic, align 4
  store atomic i32 0, ptr @waiting monotonic, align 4
  store atomic i32 0, ptr @busy monotonic, align 4
  store atomic i32 0, ptr @sleeping monotonic, align 4
  store i32 0, ptr @started
  store [<workers> x %worker] zeroinitializer, ptr @workers
  ret void
}

define void @hornfels_set_patience(i64 %spins, i64 %worker, i64 %caller) {
  store i64 %spins, ptr @spins
  store i64 %worker, ptr @worker_time
  store i64 %caller, ptr @caller_time
  ret void
}

; Look at the ticket so many times, as an idle worker does.
define void @hornfels_spin(i64 %spins) {
entry:
  br label %check

check:
  %number = phi i64 [ 0, %entry ], [ %next, %look ]
  %more = icmp ult i64 %number, %spins
  br i1 %more, label %look, label %done

look:
  call i1 @claim_all(ptr @caller, i1 true)
  call void @pause()
  %next = add i64 %number, 1
  br label %check

done:
  ret void
}

define i64 @hornfels_mode() {
  %mode = call i64 @read_mode()
  ret i64 %mode
}

; --- Linux ----------------------------------------------------------------------------------------

; Nanoseconds of a clock; 1 is CLOCK_MONOTONIC.
define internal i64 @now(i32 %clock) {
  %place = alloca [2 x i64]
  call i32 @clock_gettime(i32 %clock, ptr %place)
  %seconds = load i64, ptr %place
  %rest_at = getelementptr i64, ptr %place, i32 1
  %rest = load i64, ptr %rest_at
  %whole = mul i64 %seconds, 1000000000
  %all = add i64 %whole, %rest
  ret i64 %all
}

; Sleep until woken or for the time, if not null, but only if the word has the value
; (FUTEX_WAIT_PRIVATE).
define internal void @sleep_while(ptr %word, i32 %value, ptr %limit) {
  call i64 (i64, ...) @syscall(i64 <futex>, ptr %word, i32 128, i32 %value, ptr %limit)
  ret void
}

; Wake so many threads that sleep on the word (FUTEX_WAKE_PRIVATE).
define internal void @wake(ptr %word, i32 %count) {
  call i64 (i64, ...) @syscall(i64 <futex>, ptr %word, i32 129, i32 %count)
  ret void
}
